#pragma once

#include <cstdint>

#include "base/bytes.h"
#include "base/result.h"

namespace vmm::kvm {

// The counters that the guest's clock and timers are made of, as they were when the guest was
// paused. They have one owner, the VM: a vCPU's state does not contain them.
struct Counter {
  std::uint64_t frequency_hz = 0;    // CNTFRQ_EL0, the same on both hosts
  std::uint64_t virtual_count = 0;   // CNTVCT_EL0
  std::uint64_t physical_count = 0;  // CNTPCT_EL0

  [[nodiscard]] bool operator==(const Counter&) const = default;

  // Appends a version (u32), then the fields.
  void save(ByteWriter& writer) const;
  // Error for a frequency outside of kMinHz to kMaxHz.
  [[nodiscard]] static Result<Counter> restore(ByteReader& reader);

  static constexpr std::uint64_t kMinHz = 1'000'000;
  static constexpr std::uint64_t kMaxHz = 4'000'000'000;  // from Armv8.6 on it is 1 GHz
};

// Ticks in so many nanoseconds, rounded down; frequency_hz is one that Counter::restore() lets
// through. Exact for any duration; wraps as the counter itself does.
[[nodiscard]] std::uint64_t counter_ticks(std::uint64_t nanoseconds, std::uint64_t frequency_hz);

}  // namespace vmm::kvm
