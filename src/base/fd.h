#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <utility>

#include "base/result.h"

namespace vmm {

// Owner of a file descriptor; closes it when it goes.
class Fd {
 public:
  Fd() = default;
  explicit Fd(int fd) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  Fd(const Fd&) = delete;
  Fd& operator=(const Fd&) = delete;
  ~Fd();

  [[nodiscard]] int get() const { return fd_; }
  [[nodiscard]] bool valid() const { return fd_ >= 0; }
  // Gives the descriptor away; the caller closes it.
  [[nodiscard]] int release() { return std::exchange(fd_, -1); }

 private:
  int fd_ = -1;
};

// open(2) with O_CLOEXEC added; mode is used with O_CREAT. The error names the path and is of kind
// kFailed unless another is given.
[[nodiscard]] Result<Fd> open_file(const std::string& path, int flags, unsigned mode = 0600,
                                   ErrorKind kind = ErrorKind::kFailed);

// Reads or writes all of data, going on after short transfers and EINTR. The error of a short read
// says how many bytes were there. name is what the error calls the file.
[[nodiscard]] Result<> read_exact(const Fd& fd, std::span<std::byte> data, const std::string& name);
[[nodiscard]] Result<> write_all(const Fd& fd, std::span<const std::byte> data,
                                 const std::string& name);

// Whole contents of a file of at most max_bytes.
[[nodiscard]] Result<std::string> read_file(const std::string& path, std::size_t max_bytes);

// eventfd(2), non-blocking, initially 0.
[[nodiscard]] Result<Fd> make_eventfd();
// Adds 1 to an eventfd. Only our own bugs make it fail: aborts then.
void signal_eventfd(const Fd& fd);

}  // namespace vmm
