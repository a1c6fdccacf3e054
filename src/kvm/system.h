#pragma once

#include <cstdint>
#include <string>

#include "base/fd.h"
#include "base/result.h"
#include "kvm/vm.h"

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
  bool inject_abort = false;            // KVM_CAP_ARM_INJECT_EXT_DABT and _NISV_TO_USER
  bool manual_dirty_protect = false;    // KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2
  bool dirty_initially_set = false;     // KVM_DIRTY_LOG_INITIALLY_SET
  bool eager_split = false;             // KVM_CAP_ARM_EAGER_SPLIT_CHUNK_SIZE
  std::uint64_t block_sizes = 0;        // stage-2 block sizes, a bit per size in bytes
  bool hw_dirty_log = false;            // KVM_CAP_ARM_HW_DIRTY_LOG offers hardware mode
};

// The KVM of this host, /dev/kvm.
class System {
 public:
  // Error (kHost) where the device is missing, may not be opened, or speaks another API version.
  [[nodiscard]] static Result<System> open(const std::string& path = "/dev/kvm");

  // Makes a short-lived VM to ask about, as some answers are given per VM only.
  [[nodiscard]] Result<Capabilities> capabilities() const;

  // A VM with guest-physical addresses of ipa_bits (32 up to what the host offers).
  [[nodiscard]] Result<Vm> create_vm(unsigned ipa_bits) const;

 private:
  System(Fd fd, std::size_t run_size) : fd_(std::move(fd)), run_size_(run_size) {}

  Fd fd_;
  std::size_t run_size_;  // bytes of a vCPU's shared run structure
};

}  // namespace vmm::kvm
