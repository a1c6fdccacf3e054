#pragma once

#include <cstdint>

namespace vmm::kvm {

// What KVM offers on this host; the numbers are KVM_CHECK_EXTENSION's.
struct Capabilities {
  unsigned max_vcpus = 0;
  unsigned ipa_bits = 0;  // largest guest-physical address size
  bool gicv3 = false;
  bool psci = false;
  bool sve = false;
  bool pauth = false;
  bool pmu = false;
  bool ioeventfd = false;
  bool irqfd = false;
  bool inject_abort = false;          // KVM_CAP_ARM_INJECT_EXT_DABT and _NISV_TO_USER
  bool manual_dirty_protect = false;  // KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2
  bool dirty_initially_set = false;   // KVM_DIRTY_LOG_INITIALLY_SET
  bool eager_split = false;           // KVM_CAP_ARM_EAGER_SPLIT_CHUNK_SIZE
  std::uint64_t block_sizes = 0;      // stage-2 block sizes, a bit per size in bytes
  bool hw_dirty_log = false;          // KVM_CAP_ARM_HW_DIRTY_LOG offers hardware mode
};

}  // namespace vmm::kvm
