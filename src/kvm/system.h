#pragma once

#include <cstdint>
#include <string>

#include "base/fd.h"
#include "base/result.h"
#include "kvm/capabilities.h"
#include "kvm/vm.h"

namespace vmm::kvm {

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
