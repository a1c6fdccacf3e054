#pragma once

#include <fmt/core.h>

#include <cerrno>
#include <string>
#include <utility>
#include <vector>

namespace vmm {

// What an error means to the caller of the program; the values are its exit codes (docs/vmm.1.md).
enum class ErrorKind {
  kFailed = 1,         // the operation failed
  kUsage = 2,          // command line or configuration is wrong
  kNoSuchGuest = 3,    // no running guest of that name
  kHost = 4,           // the host lacks something: KVM, memory, a capability
  kMigration = 5,      // migration failed, the guest runs on at the source
  kInDoubt = 6,        // who owns the guest is not known yet
  kInterrupted = 130,  // interrupted by the user
};

// Why an operation failed: what was tried on what, the errno if a system call said so, and the
// wider operations it was part of. Printed once, at the top of the program, as one line.
class Error {
 public:
  Error(ErrorKind kind, std::string what, int system_errno = 0)
      : kind_(kind), errno_(system_errno), what_(std::move(what)) {}

  [[nodiscard]] ErrorKind kind() const { return kind_; }
  // The errno value of the failed system call, 0 where there is none.
  [[nodiscard]] int system_errno() const { return errno_; }

  // Adds the operation this error made fail, outermost last.
  Error& add_context(std::string operation) & {
    context_.push_back(std::move(operation));
    return *this;
  }
  Error&& add_context(std::string operation) && {
    context_.push_back(std::move(operation));
    return std::move(*this);
  }

  // "outer: inner: what: strerror", without a line end.
  [[nodiscard]] std::string message() const;

 private:
  ErrorKind kind_;
  int errno_;
  std::string what_;
  std::vector<std::string> context_;
};

// Error of a failed system call: reads errno, which must not have been touched since.
template <typename... Args>
[[nodiscard]] Error system_error(ErrorKind kind, fmt::format_string<Args...> format,
                                 Args&&... args) {
  const int saved = errno;
  return Error(kind, fmt::format(format, std::forward<Args>(args)...), saved);
}

// Error without errno.
template <typename... Args>
[[nodiscard]] Error make_error(ErrorKind kind, fmt::format_string<Args...> format, Args&&... args) {
  return Error(kind, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace vmm
