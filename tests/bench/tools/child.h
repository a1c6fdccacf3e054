#pragma once

#include <sys/types.h>

#include <string_view>
#include <utility>

#include "base/fd.h"
#include "base/result.h"

namespace vmm::bench {

// A child process; killed and reaped when it goes.
class Child {
 public:
  Child(pid_t pid, Fd output) : pid_(pid), output_(std::move(output)) {}
  Child(Child&& other) noexcept
      : pid_(std::exchange(other.pid_, -1)), output_(std::move(other.output_)) {}
  Child& operator=(Child&&) = delete;
  ~Child();

  [[nodiscard]] pid_t pid() const { return pid_; }
  // Its standard output and error.
  [[nodiscard]] const Fd& output() const { return output_; }
  // Waits for its end; the wait status.
  [[nodiscard]] int wait();

 private:
  pid_t pid_;
  Fd output_;
};

// Starts argv[0] with the arguments argv, which end with null, and nothing to read.
[[nodiscard]] Result<Child> start_child(char** argv);

// Memory in KiB that only this process uses (Private_Clean + Private_Dirty of /proc/PID/smaps)
// besides its one mapping of guest_kib or more: the guest's memory, which the kernel may have
// merged with a neighbour.
[[nodiscard]] Result<long> private_kib(pid_t pid, long guest_kib);

[[nodiscard]] Result<long> parse_positive(std::string_view text);

}  // namespace vmm::bench
