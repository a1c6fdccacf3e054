#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "base/fd.h"
#include "base/result.h"

namespace vmm::kvm {

class Vm;

// The kernel's counters of a VM (KVM_GET_STATS_FD). Reading one is a system call. Threads: any.
class VmStats {
 public:
  // Error (kHost) where the kernel has no binary statistics.
  [[nodiscard]] static Result<VmStats> open(const Vm& vm);

  // A counter by its name, nothing where this kernel does not have it.
  [[nodiscard]] Result<std::optional<std::uint64_t>> read(std::string_view name) const;

 private:
  explicit VmStats(Fd fd) : fd_(std::move(fd)) {}

  Fd fd_;
};

}  // namespace vmm::kvm
