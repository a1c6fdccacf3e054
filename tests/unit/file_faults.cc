#include "file_faults.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <shared_mutex>
#include <utility>

namespace vmm {
namespace {

std::shared_mutex mutex;
FileFaults* active = nullptr;  // under mutex

bool fails(const char* path, bool removes = false) {
  const std::shared_lock lock(mutex);
  return active != nullptr && active->fails(path, removes);
}

bool fails(int fd) {
  const std::shared_lock lock(mutex);
  if (active == nullptr) return false;
  std::array<char, 32> link{};
  std::snprintf(link.data(), link.size(), "/proc/self/fd/%d", fd);
  std::array<char, 4096> path{};
  if (::readlink(link.data(), path.data(), path.size() - 1) < 0) return false;
  return active->fails(path.data(), false);
}

}  // namespace

FileFaults::FileFaults(std::filesystem::path folder, int number, int error, How how)
    : folder_(std::move(folder)), number_(number), error_(error), how_(how) {
  const std::unique_lock lock(mutex);
  if (std::exchange(active, this) != nullptr) std::abort();
}

FileFaults::~FileFaults() {
  const std::unique_lock lock(mutex);
  active = nullptr;
}

bool FileFaults::fails(const std::string& path, bool removes) {
  if (!path.starts_with(folder_)) return false;
  const int number = calls_++;
  if (how_ == How::kOnce ? number != number_ : number < number_) return false;
  fired_ = true;
  kept_a_file_ = kept_a_file_ || removes;
  errno = error_;
  return true;
}

}  // namespace vmm

// The linker has all calls come here first (--wrap).
extern "C" {

int __real_open(const char* path, int flags, ...);
int __wrap_open(const char* path, int flags, ...) {
  std::va_list arguments;
  va_start(arguments, flags);
  const bool makes = (flags & O_CREAT) != 0;
  const mode_t mode = makes ? va_arg(arguments, mode_t) : 0;
  va_end(arguments);
  return vmm::fails(path) ? -1 : __real_open(path, flags, mode);
}

ssize_t __real_write(int fd, const void* data, size_t size);
ssize_t __wrap_write(int fd, const void* data, size_t size) {
  return vmm::fails(fd) ? -1 : __real_write(fd, data, size);
}

int __real_fsync(int fd);
int __wrap_fsync(int fd) {
  return vmm::fails(fd) ? -1 : __real_fsync(fd);
}

int __real_flock(int fd, int operation);
int __wrap_flock(int fd, int operation) {
  return vmm::fails(fd) ? -1 : __real_flock(fd, operation);
}

int __real_link(const char* from, const char* to);
int __wrap_link(const char* from, const char* to) {
  return vmm::fails(to) ? -1 : __real_link(from, to);
}

int __real_rename(const char* from, const char* to);
int __wrap_rename(const char* from, const char* to) {
  return vmm::fails(to) ? -1 : __real_rename(from, to);
}

int __real_unlink(const char* path);
int __wrap_unlink(const char* path) {
  return vmm::fails(path, true) ? -1 : __real_unlink(path);
}

}  // extern "C"
