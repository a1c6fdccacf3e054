#include "init/switch_root.h"

#include <ftw.h>
#include <linux/magic.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <string>

#include "base/fd.h"
#include "init/system.h"

namespace vmm::guest {
namespace {

constexpr const char* kNewRoot = "/new-root";
constexpr std::array kMoved{"/dev", "/proc", "/sys", "/run"};
constexpr int kWaitTenthsOfSeconds = 100;  // drivers find their devices after they are loaded
constexpr int kOpenDirectories = 16;

Result<> wait_for_node(const std::string& path) {
  for (int tenth = 0; access(path.c_str(), F_OK) != 0; ++tenth) {
    if (tenth == kWaitTenthsOfSeconds) {
      return fail(ErrorKind::kFailed, "no root disk {}: it did not appear", path);
    }
    usleep(100'000);
  }
  return success();
}

Result<> mount_root(const RootDisk& disk) {
  mkdir(kNewRoot, 0755);  // a failure shows in the mount
  const unsigned long flags = disk.read_only ? MS_RDONLY : 0;
  if (mount(disk.device.c_str(), kNewRoot, disk.type.c_str(), flags, nullptr) != 0) {
    return fail_errno(ErrorKind::kFailed, "mount root disk {} as {}", disk.device, disk.type);
  }
  // Not followed where it is a link: an absolute one means something else in here.
  struct stat init {};
  if (lstat((kNewRoot + disk.init).c_str(), &init) != 0) {
    return fail_errno(ErrorKind::kFailed, "root disk {}: no init {}", disk.device, disk.init);
  }
  return success();
}

// For nftw(): removes what is on the RAM disk itself.
int remove_entry(const char* path, const struct stat*, int, struct FTW* place) {
  if (place->level > 0) remove(path);  // mount points stay, and that is fine
  return 0;
}

Result<> enter_new_root() {
  if (chdir(kNewRoot) != 0 || mount(".", "/", nullptr, MS_MOVE, nullptr) != 0 || chroot(".") != 0 ||
      chdir("/") != 0) {
    return fail_errno(ErrorKind::kFailed, "make {} the root", kNewRoot);
  }
  return success();
}

Result<> become_init(const RootDisk& disk) {
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  std::string path = disk.init;
  const std::array<char*, 2> argv{path.data(), nullptr};
  execv(path.c_str(), argv.data());
  return fail_errno(ErrorKind::kFailed, "start {} of {}", disk.init, disk.device);
}

Result<> switch_to(const RootDisk& disk) {
  TRY(wait_for_node(disk.device));
  TRY(mount_root(disk));
  umount2("/tmp", MNT_DETACH);  // empty, and not worth keeping
  for (const char* path : kMoved) {
    if (mount(path, (kNewRoot + std::string(path)).c_str(), nullptr, MS_MOVE, nullptr) != 0) {
      return fail_errno(ErrorKind::kFailed, "move {} to root disk {}", path, disk.device);
    }
  }
  nftw("/", remove_entry, kOpenDirectories, FTW_DEPTH | FTW_MOUNT | FTW_PHYS);
  TRY(enter_new_root());
  return become_init(disk);
}

}  // namespace

bool runs_from_ram() {
  struct statfs root {};
  return statfs("/", &root) == 0 && (root.f_type == RAMFS_MAGIC || root.f_type == TMPFS_MAGIC);
}

Error switch_root(const RootDisk& disk) {
  return switch_to(disk).error();
}

}  // namespace vmm::guest
