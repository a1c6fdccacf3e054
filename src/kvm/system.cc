#include "kvm/system.h"

#include <fcntl.h>
#include <linux/kvm.h>

#include "kvm/hw_dirty_log.h"
#include "kvm/ioctl.h"

namespace vmm::kvm {
namespace {

constexpr int kApiVersion = 12;  // the only version there is, KVM_GET_API_VERSION

bool has_vgic_v3(const Fd& vm) {
  kvm_create_device device{};
  device.type = KVM_DEV_TYPE_ARM_VGIC_V3;
  device.flags = KVM_CREATE_DEVICE_TEST;
  return KVM_CALL(vm, KVM_CREATE_DEVICE, &device).has_value();
}

}  // namespace

Result<System> System::open(const std::string& path) {
  auto fd = open_file(path, O_RDWR, 0, ErrorKind::kHost);
  if (!fd) {
    switch (fd.error().system_errno()) {
      case ENOENT:
        return fail(ErrorKind::kHost,
                    "{} does not exist: this host has no KVM, or runs at EL1 only", path);
      case EACCES:
      case EPERM:
        return fail(ErrorKind::kHost,
                    "no permission to open {}: add this user to the group that owns it", path);
      default:
        return fail(std::move(fd).error());
    }
  }
  TRY(const auto version, KVM_CALL(fd.value(), KVM_GET_API_VERSION, 0));
  if (version != kApiVersion) {
    return fail(ErrorKind::kHost, "{} speaks KVM API version {}, {} is needed", path, version,
                kApiVersion);
  }
  TRY(const auto run_size, KVM_CALL(fd.value(), KVM_GET_VCPU_MMAP_SIZE, 0));
  return System(std::move(fd).value(), static_cast<std::size_t>(run_size));
}

Result<Capabilities> System::capabilities() const {
  TRY(const auto vm, KVM_CALL(fd_, KVM_CREATE_VM, 0));
  const Fd vm_fd(vm);
  // An extension the kernel has never heard of is answered with 0, as is one it lacks.
  const auto check = [&vm_fd](long extension) {
    const auto value = KVM_CALL(vm_fd, KVM_CHECK_EXTENSION, extension);
    return value ? static_cast<unsigned>(value.value()) : 0U;
  };
  Capabilities found;
  found.max_vcpus = check(KVM_CAP_MAX_VCPUS);
  found.ipa_bits = check(KVM_CAP_ARM_VM_IPA_SIZE);
  found.gicv3 = has_vgic_v3(vm_fd);
  found.psci = check(KVM_CAP_ARM_PSCI_0_2) != 0;
  found.sve = check(KVM_CAP_ARM_SVE) != 0;
  found.pauth = check(KVM_CAP_ARM_PTRAUTH_ADDRESS) != 0 && check(KVM_CAP_ARM_PTRAUTH_GENERIC) != 0;
  found.pmu = check(KVM_CAP_ARM_PMU_V3) != 0;
  found.ioeventfd = check(KVM_CAP_IOEVENTFD) != 0;
  found.irqfd = check(KVM_CAP_IRQFD) != 0;
  found.inject_abort =
      check(KVM_CAP_ARM_INJECT_EXT_DABT) != 0 && check(KVM_CAP_ARM_NISV_TO_USER) != 0;
  const unsigned protect = check(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2);
  found.manual_dirty_protect = (protect & KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE) != 0;
  found.dirty_initially_set = (protect & KVM_DIRTY_LOG_INITIALLY_SET) != 0;
  found.block_sizes = check(KVM_CAP_ARM_SUPPORTED_BLOCK_SIZES);
  found.eager_split = found.block_sizes != 0;
  found.hw_dirty_log = (check(KVM_CAP_ARM_HW_DIRTY_LOG) & (1U << KVM_ARM_DIRTY_LOG_HW)) != 0;
  return found;
}

Result<Vm> System::create_vm(unsigned ipa_bits) const {
  TRY(const auto vm,
      KVM_CALL(fd_, KVM_CREATE_VM, static_cast<unsigned long>(KVM_VM_TYPE_ARM_IPA_SIZE(ipa_bits))));
  return Vm::adopt(Fd(vm), run_size_);
}

}  // namespace vmm::kvm
