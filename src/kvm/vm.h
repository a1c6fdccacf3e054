#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "base/fd.h"
#include "base/result.h"
#include "kvm/gic.h"
#include "kvm/vcpu.h"

namespace vmm::kvm {

// A virtual machine of KVM. Its methods may be called from any thread.
class Vm {
 public:
  // Takes a descriptor made by KVM_CREATE_VM; run_size is KVM_GET_VCPU_MMAP_SIZE's answer.
  [[nodiscard]] static Result<Vm> adopt(Fd fd, std::size_t run_size);

  // Backs the guest-physical range at ipa with host memory, which must outlive the VM. ipa and the
  // size are multiples of the page size. Repeated with the same memory, it turns the log of the
  // guest's writes on or off.
  [[nodiscard]] Result<> set_memory(std::uint32_t slot, std::uint64_t ipa,
                                    std::span<std::byte> memory, bool log_writes = false);

  // vCPU number index (0 based, in order of creation). All but the first wait for PSCI CPU_ON.
  [[nodiscard]] Result<std::unique_ptr<Vcpu>> create_vcpu(unsigned index,
                                                          const VcpuFeatures& features);

  // GICv3 with these guest-physical addresses, for vCPUs created before.
  [[nodiscard]] Result<Gic> create_gic(std::uint64_t distributor, std::uint64_t redistributors,
                                       unsigned spi_count);

  // Has KVM write to an eventfd instead of leaving the guest, when it writes the 32-bit `value` to
  // guest-physical `address`. fd may be closed afterwards only together with the VM.
  [[nodiscard]] Result<> add_ioeventfd(const Fd& fd, std::uint64_t address, std::uint32_t value);

  // Has KVM raise a shared peripheral interrupt (0 based) whenever the eventfd is written to; for
  // edge-triggered interrupts. After the GIC.
  [[nodiscard]] Result<> add_irqfd(const Fd& fd, unsigned spi);

  // Drives the input of a shared peripheral interrupt (0 based, INTID 32 + spi).
  [[nodiscard]] Result<> set_spi_level(unsigned spi, bool level);

  // For the rest of this folder.
  [[nodiscard]] const Fd& fd() const { return fd_; }

 private:
  Vm(Fd fd, std::size_t run_size) : fd_(std::move(fd)), run_size_(run_size) {}

  Fd fd_;
  std::size_t run_size_;
};

}  // namespace vmm::kvm
