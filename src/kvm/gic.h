#pragma once

#include <cstdint>
#include <span>

#include "base/fd.h"
#include "base/result.h"
#include "kvm/gic_state.h"

namespace vmm::kvm {

// KVM's GICv3 (Documentation/virt/kvm/devices/arm-vgic-v3.rst).
class Gic {
 public:
  // Takes a device descriptor, sets its addresses and number of interrupts, and initialises it. The
  // redistributors follow each other, 128 KiB per vCPU.
  [[nodiscard]] static Result<Gic> adopt(Fd fd, std::uint64_t distributor,
                                         std::uint64_t redistributors, unsigned spi_count);

  // GICD_IIDR: which KVM's behaviour the guest sees.
  [[nodiscard]] Result<std::uint32_t> iidr() const;
  // Has KVM behave as another one did. Error (kHost) with both values where it cannot.
  [[nodiscard]] Result<> set_iidr(std::uint32_t iidr);

  // Saving and restoring are for any thread, while no vCPU is in KVM_RUN (else EBUSY). The
  // affinities are those of all vCPUs, Vcpu::affinity(), in order of their index.

  // Error (kHost) where the guest has enabled LPIs, which are not supported.
  [[nodiscard]] Result<GicState> save(std::span<const std::uint64_t> affinities) const;
  // Makes the GIC what another with the same number of interrupts and the same vCPUs was, whatever
  // it was before, but before any vCPU has run: later, KVM leaves the active state of the timers'
  // interrupts alone. Values come from a peer.
  [[nodiscard]] Result<> restore(const GicState& state, std::span<const std::uint64_t> affinities);

 private:
  explicit Gic(Fd fd) : fd_(std::move(fd)) {}

  [[nodiscard]] Result<GicState::Cpu> save_cpu(std::uint64_t affinity) const;
  [[nodiscard]] Result<> restore_cpu(const GicState::Cpu& cpu);

  Fd fd_;
};

}  // namespace vmm::kvm
