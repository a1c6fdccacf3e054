#include "init/system.h"

#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <cstdio>
#include <ctime>
#include <sstream>
#include <vector>

#include "base/fd.h"

namespace vmm::guest {
namespace {

struct MountPoint {
  const char* type;
  const char* path;
  unsigned long flags;
  const char* data;
};

// In order: later ones lie below earlier ones.
constexpr std::array kMountPoints{
    MountPoint{"proc", "/proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, nullptr},
    MountPoint{"sysfs", "/sys", MS_NOSUID | MS_NODEV | MS_NOEXEC, nullptr},
    MountPoint{"devtmpfs", "/dev", MS_NOSUID, "mode=0755"},
    MountPoint{"devpts", "/dev/pts", MS_NOSUID | MS_NOEXEC, "mode=0620,ptmxmode=0666"},
    MountPoint{"tmpfs", "/dev/shm", MS_NOSUID | MS_NODEV, nullptr},
    MountPoint{"tmpfs", "/run", MS_NOSUID | MS_NODEV, nullptr},
    MountPoint{"tmpfs", "/tmp", MS_NOSUID | MS_NODEV, nullptr},
};

constexpr int kGraceTenths = 10;  // time that processes get to end by themselves, in 0.1 s

// Reaps what has ended; whether no process is left besides this one.
bool all_gone() {
  while (true) {
    const pid_t pid = waitpid(-1, nullptr, WNOHANG);
    if (pid == 0) return false;
    if (pid < 0) return true;
  }
}

void unmount_disks() {
  auto mounts = slurp("/proc/mounts");
  if (!mounts) return say(mounts.error());
  std::vector<std::string> paths;
  std::istringstream lines(mounts.value());
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::string device;
    std::string path;
    words >> device >> path;
    if (device.starts_with("/dev/")) paths.push_back(path);
  }
  for (auto path = paths.rbegin(); path != paths.rend(); ++path) {
    // The root stays in use; made read-only, its file system is as clean as if it were unmounted.
    const bool root = *path == "/";
    const int failed = root ? mount(nullptr, "/", nullptr, MS_REMOUNT | MS_RDONLY, nullptr)
                            : umount2(path->c_str(), 0);
    if (failed != 0) say(system_error(ErrorKind::kFailed, "unmount {}", *path));
  }
}

}  // namespace

void say(std::string_view text) {
  std::printf("vmm-guest: %.*s\n", static_cast<int>(text.size()), text.data());
  std::fflush(stdout);
}

void say(const Error& error) {
  say("error: " + error.message());
}

std::string uptime() {
  timespec now{};
  clock_gettime(CLOCK_BOOTTIME, &now);
  return fmt::format("{}.{:03}", now.tv_sec, now.tv_nsec / 1'000'000);
}

void mount_all() {
  for (const MountPoint& point : kMountPoints) {
    mkdir(point.path, 0755);  // a failure shows in the mount
    if (is_mount_point(point.path)) continue;
    if (mount(point.type, point.path, point.type, point.flags, point.data) != 0) {
      say(system_error(ErrorKind::kFailed, "mount {} on {}", point.type, point.path));
    }
  }
}

bool is_mount_point(const std::string& path) {
  struct stat inside {};
  struct stat above {};
  return stat(path.c_str(), &inside) == 0 && stat((path + "/..").c_str(), &above) == 0 &&
         inside.st_dev != above.st_dev;
}

Result<std::string> slurp(const std::string& path) {
  constexpr std::size_t kMaxBytes = 1 << 20;
  return read_file(path, kMaxBytes);
}

void end_system(Ending ending) {
  constexpr std::array<const char*, 3> kNames{"power off", "reboot", "halt"};
  constexpr std::array<unsigned, 3> kCommands{RB_POWER_OFF, RB_AUTOBOOT, RB_HALT_SYSTEM};
  const auto index = static_cast<std::size_t>(ending);
  say(fmt::format("{} uptime={}", kNames.at(index), uptime()));
  // The end of the shell on the console hangs the console up, which drops what it has not sent.
  tcdrain(STDOUT_FILENO);
  // An interactive shell ignores SIGTERM but not SIGHUP; SIGCONT lets stopped ones see them.
  for (const int signal : {SIGTERM, SIGHUP, SIGCONT}) kill(-1, signal);
  for (int tenth = 0; tenth < kGraceTenths && !all_gone(); ++tenth) usleep(100'000);
  kill(-1, SIGKILL);
  while (waitpid(-1, nullptr, 0) > 0) {
  }
  sync();
  unmount_disks();
  reboot(static_cast<int>(kCommands.at(index)));
  say(system_error(ErrorKind::kFailed, "{}", kNames.at(index)));
  while (true) pause();
}

}  // namespace vmm::guest
