#pragma once

#include <cstdint>

// The host's counter as user space sees it; arm64 only.
namespace vmm::kvm {

// CNTFRQ_EL0: ticks a second.
inline std::uint64_t host_counter_hz() {
  std::uint64_t frequency = 0;
  asm("mrs %0, cntfrq_el0" : "=r"(frequency));
  return frequency;
}

// CNTVCT_EL0: what the guest's counters are an offset from.
inline std::uint64_t host_count() {
  std::uint64_t count = 0;
  asm volatile("isb\n\tmrs %0, cntvct_el0" : "=r"(count)::"memory");
  return count;
}

}  // namespace vmm::kvm
