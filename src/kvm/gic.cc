#include "kvm/gic.h"

#include <linux/kvm.h>

#include "kvm/ioctl.h"

namespace vmm::kvm {
namespace {

Result<> set_attribute(const Fd& fd, std::uint32_t group, std::uint64_t number, const void* value) {
  kvm_device_attr attribute{};
  attribute.group = group;
  attribute.attr = number;
  attribute.addr = reinterpret_cast<std::uintptr_t>(value);
  TRY(KVM_CALL(fd, KVM_SET_DEVICE_ATTR, &attribute));
  return success();
}

}  // namespace

Result<Gic> Gic::adopt(Fd fd, std::uint64_t distributor, std::uint64_t redistributors,
                       unsigned spi_count) {
  constexpr std::uint32_t kFirstSpi = 32;
  const std::uint32_t interrupts = kFirstSpi + spi_count;
  TRY(set_attribute(fd, KVM_DEV_ARM_VGIC_GRP_ADDR, KVM_VGIC_V3_ADDR_TYPE_DIST, &distributor));
  TRY(set_attribute(fd, KVM_DEV_ARM_VGIC_GRP_ADDR, KVM_VGIC_V3_ADDR_TYPE_REDIST, &redistributors));
  TRY(set_attribute(fd, KVM_DEV_ARM_VGIC_GRP_NR_IRQS, 0, &interrupts));
  TRY(set_attribute(fd, KVM_DEV_ARM_VGIC_GRP_CTRL, KVM_DEV_ARM_VGIC_CTRL_INIT, nullptr));
  return Gic(std::move(fd));
}

}  // namespace vmm::kvm
