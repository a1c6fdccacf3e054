#pragma once

#include <cstdint>

#include "base/fd.h"
#include "base/result.h"

namespace vmm::kvm {

// KVM's GICv3 (Documentation/virt/kvm/devices/arm-vgic-v3.rst).
class Gic {
 public:
  // Takes a device descriptor, sets its addresses and number of interrupts, and initialises it. The
  // redistributors follow each other, 128 KiB per vCPU.
  [[nodiscard]] static Result<Gic> adopt(Fd fd, std::uint64_t distributor,
                                         std::uint64_t redistributors, unsigned spi_count);

 private:
  explicit Gic(Fd fd) : fd_(std::move(fd)) {}

  Fd fd_;
};

}  // namespace vmm::kvm
