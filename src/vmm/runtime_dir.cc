#include "vmm/runtime_dir.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>

namespace vmm {
namespace {

constexpr std::string_view kSocketExtension = ".sock";

// True when fd still is the file at path: another process may have removed it before fd was locked.
Result<bool> is_file_at(const Fd& fd, const std::string& path) {
  struct stat opened {};
  struct stat named {};
  if (::fstat(fd.get(), &opened) != 0)
    return fail_errno(ErrorKind::kFailed, "cannot stat {}", path);
  if (::stat(path.c_str(), &named) != 0) {
    if (errno == ENOENT) return false;
    return fail_errno(ErrorKind::kFailed, "cannot stat {}", path);
  }
  return opened.st_dev == named.st_dev && opened.st_ino == named.st_ino;
}

}  // namespace

Result<std::filesystem::path> runtime_dir() {
  const char* base = std::getenv("XDG_RUNTIME_DIR");
  const std::filesystem::path dir =
      std::filesystem::path(base == nullptr || *base == '\0' ? "/run" : base) / "vmm";
  if (::mkdir(dir.c_str(), 0700) != 0 && errno != EEXIST) {
    return fail_errno(ErrorKind::kHost, "cannot make {} for control sockets", dir.string());
  }
  return dir;
}

Result<GuestName> GuestName::claim(const std::filesystem::path& dir, const std::string& name) {
  const std::string lock_path = dir / (name + ".lock");
  sockaddr_un address{};
  if ((dir / (name + std::string(kSocketExtension))).string().size() >= sizeof address.sun_path) {
    return fail(ErrorKind::kUsage, "the path of the control socket in {} is too long for name {}",
                dir.string(), name);
  }
  for (;;) {
    TRY(auto lock, open_file(lock_path, O_RDWR | O_CREAT));
    if (::flock(lock.get(), LOCK_EX | LOCK_NB) != 0) {
      if (errno == EWOULDBLOCK) {
        return fail(ErrorKind::kFailed,
                    "a guest named {} is already running here; stop it or choose another --name",
                    name);
      }
      return fail_errno(ErrorKind::kFailed, "cannot lock {}", lock_path);
    }
    TRY(const auto current, is_file_at(lock, lock_path));
    if (!current) continue;
    GuestName claimed(std::move(lock), dir, name);
    if (::unlink(claimed.socket_path_.c_str()) != 0 && errno != ENOENT) {
      return fail_errno(ErrorKind::kFailed, "cannot remove stale socket {}",
                        claimed.socket_path_.string());
    }
    return claimed;
  }
}

GuestName::GuestName(Fd lock, const std::filesystem::path& dir, const std::string& name)
    : lock_(std::move(lock)),
      lock_path_(dir / (name + ".lock")),
      socket_path_(dir / (name + std::string(kSocketExtension))),
      log_path_(dir / (name + ".log")) {}

GuestName::~GuestName() {
  if (!lock_.valid()) return;
  // Files that cannot be removed are stale from now on, and replaced by the next of the name.
  static_cast<void>(::unlink(socket_path_.c_str()));
  static_cast<void>(::unlink(lock_path_.c_str()));
}

Result<std::vector<std::string>> guest_names(const std::filesystem::path& dir) {
  std::error_code error;
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(dir, error)) {
    if (entry.path().extension() == kSocketExtension) names.push_back(entry.path().stem());
  }
  if (error) return fail(ErrorKind::kFailed, "cannot list {}: {}", dir.string(), error.message());
  std::ranges::sort(names);
  return names;
}

}  // namespace vmm
