#include "kvm/vm.h"

#include <linux/kvm.h>

#include "kvm/ioctl.h"

namespace vmm::kvm {

Result<Vm> Vm::adopt(Fd fd, std::size_t run_size) {
  Vm vm(std::move(fd), run_size);
  // Without this, an access that the CPU does not decode ends KVM_RUN with an error; with it, it is
  // an exit that the guest can be given an abort for. Old kernels lack it.
  kvm_enable_cap cap{};
  cap.cap = KVM_CAP_ARM_NISV_TO_USER;
  TRY(const auto offered,
      KVM_CALL(vm.fd_, KVM_CHECK_EXTENSION, static_cast<long>(KVM_CAP_ARM_NISV_TO_USER)));
  if (offered != 0) {
    TRY(KVM_CALL(vm.fd_, KVM_ENABLE_CAP, &cap));
  }
  return vm;
}

Result<> Vm::set_memory(std::uint32_t slot, std::uint64_t ipa, std::span<std::byte> memory,
                        bool log_writes) {
  kvm_userspace_memory_region region{};
  region.slot = slot;
  region.flags = log_writes ? KVM_MEM_LOG_DIRTY_PAGES : 0;
  region.guest_phys_addr = ipa;
  region.memory_size = memory.size();
  region.userspace_addr = reinterpret_cast<std::uintptr_t>(memory.data());
  TRY(KVM_CALL(fd_, KVM_SET_USER_MEMORY_REGION, &region));
  return success();
}

Result<std::unique_ptr<Vcpu>> Vm::create_vcpu(unsigned index, const VcpuFeatures& features) {
  TRY(const auto vcpu, KVM_CALL(fd_, KVM_CREATE_VCPU, static_cast<unsigned long>(index)));
  Fd vcpu_fd(vcpu);
  kvm_vcpu_init target{};
  TRY(KVM_CALL(fd_, KVM_ARM_PREFERRED_TARGET, &target));
  return Vcpu::adopt(std::move(vcpu_fd), index, run_size_, target.target, features);
}

Result<Gic> Vm::create_gic(std::uint64_t distributor, std::uint64_t redistributors,
                           unsigned spi_count) {
  kvm_create_device device{};
  device.type = KVM_DEV_TYPE_ARM_VGIC_V3;
  TRY(KVM_CALL(fd_, KVM_CREATE_DEVICE, &device));
  return Gic::adopt(Fd(static_cast<int>(device.fd)), distributor, redistributors, spi_count);
}

Result<> Vm::add_ioeventfd(const Fd& fd, std::uint64_t address, std::uint32_t value) {
  kvm_ioeventfd kick{};
  kick.datamatch = value;
  kick.addr = address;
  kick.len = sizeof value;
  kick.fd = fd.get();
  kick.flags = KVM_IOEVENTFD_FLAG_DATAMATCH;
  TRY(KVM_CALL(fd_, KVM_IOEVENTFD, &kick));
  return success();
}

Result<> Vm::add_irqfd(const Fd& fd, unsigned spi) {
  kvm_irqfd interrupt{};
  interrupt.fd = static_cast<std::uint32_t>(fd.get());
  interrupt.gsi = spi;  // the routing that the vGIC sets up by default
  TRY(KVM_CALL(fd_, KVM_IRQFD, &interrupt));
  return success();
}

Result<> Vm::set_spi_level(unsigned spi, bool level) {
  constexpr std::uint32_t kFirstSpi = 32;
  kvm_irq_level irq{};
  irq.irq = (std::uint32_t{KVM_ARM_IRQ_TYPE_SPI} << KVM_ARM_IRQ_TYPE_SHIFT) | (kFirstSpi + spi);
  irq.level = level ? 1 : 0;
  TRY(KVM_CALL(fd_, KVM_IRQ_LINE, &irq));
  return success();
}

}  // namespace vmm::kvm
