#include "kvm/vcpu.h"

#include <linux/kvm.h>

#include <atomic>
#include <cstddef>

#include "kvm/ioctl.h"
#include "kvm/register_id.h"

namespace vmm::kvm {
namespace {

// Identifiers of 64-bit core registers (Documentation/virt/kvm/api.rst, KVM_SET_ONE_REG).
constexpr std::uint64_t core_register(std::size_t offset) {
  return KVM_REG_ARM64 | KVM_REG_SIZE_U64 | KVM_REG_ARM_CORE | offset / sizeof(std::uint32_t);
}
constexpr std::uint64_t kPc = core_register(offsetof(kvm_regs, regs.pc));
constexpr std::uint64_t kX0 = core_register(offsetof(kvm_regs, regs.regs));

// Aff3, Aff2, Aff1 and Aff0 of MPIDR_EL1 (Arm ARM, D19.2.101).
constexpr std::uint64_t kAffinityMask = 0xff'00ff'ffff;

void request(kvm_vcpu_init& target, unsigned feature) {
  target.features[0] |= 1U << feature;  // all there are so far are in the first word
}

// Before KVM_ARM_VCPU_FINALIZE. KVM can hide lengths from the largest down, but none in between.
Result<> set_sve_lengths(const Fd& fd, const SveLengths& lengths) {
  if (lengths.size() != KVM_ARM64_SVE_VLS_WORDS) {
    return fail(ErrorKind::kHost, "{} words of SVE vector lengths", lengths.size());
  }
  kvm_one_reg reg{.id = KVM_REG_ARM64_SVE_VLS,
                  .addr = reinterpret_cast<std::uintptr_t>(lengths.data())};
  TRY(KVM_CALL(fd, KVM_SET_ONE_REG, &reg));
  return success();
}

}  // namespace

Result<std::unique_ptr<Vcpu>> Vcpu::adopt(Fd fd, unsigned index, std::size_t run_size,
                                          std::uint32_t target_type, const VcpuFeatures& features) {
  kvm_vcpu_init target{};
  target.target = target_type;
  request(target, KVM_ARM_VCPU_PSCI_0_2);
  if (index != 0) request(target, KVM_ARM_VCPU_POWER_OFF);
  if (features.sve) request(target, KVM_ARM_VCPU_SVE);
  if (features.pauth) {
    request(target, KVM_ARM_VCPU_PTRAUTH_ADDRESS);
    request(target, KVM_ARM_VCPU_PTRAUTH_GENERIC);
  }
  if (features.pmu) request(target, KVM_ARM_VCPU_PMU_V3);
  TRY(KVM_CALL(fd, KVM_ARM_VCPU_INIT, &target));
  if (features.sve) {
    if (!features.sve_lengths.empty()) {
      TRY(with_context(set_sve_lengths(fd, features.sve_lengths),
                       "this CPU does not have the SVE vector lengths of the guest"));
    }
    int feature = KVM_ARM_VCPU_SVE;
    TRY(KVM_CALL(fd, KVM_ARM_VCPU_FINALIZE, &feature));
  }
  TRY(auto run, Mapping::shared(fd, run_size));
  // Off at its start is said once: a reset leaves power to whoever asks for it.
  const auto kept = target.features[0] & ~(1U << KVM_ARM_VCPU_POWER_OFF);
  return std::unique_ptr<Vcpu>(new Vcpu(std::move(fd), std::move(run), target_type, kept));
}

Result<> Vcpu::init_pmu(std::uint32_t interrupt) {
  kvm_device_attr attribute{};
  attribute.group = KVM_ARM_VCPU_PMU_V3_CTRL;
  attribute.attr = KVM_ARM_VCPU_PMU_V3_IRQ;
  attribute.addr = reinterpret_cast<std::uintptr_t>(&interrupt);
  TRY(KVM_CALL(fd_, KVM_SET_DEVICE_ATTR, &attribute));
  attribute.attr = KVM_ARM_VCPU_PMU_V3_INIT;
  attribute.addr = 0;
  TRY(KVM_CALL(fd_, KVM_SET_DEVICE_ATTR, &attribute));
  return success();
}

Result<> Vcpu::set_boot_registers(std::uint64_t pc, std::uint64_t x0) {
  TRY(set_register(kPc, pc));
  return set_register(kX0, x0);
}

Result<std::uint64_t> Vcpu::affinity() const {
  TRY(const auto mpidr, get_register(kMpidrEl1));
  return mpidr & kAffinityMask;
}

Result<std::uint64_t> Vcpu::program_counter() const {
  return get_register(kPc);
}

Result<Exit> Vcpu::run() {
  if (::ioctl(fd_.get(), KVM_RUN, 0) < 0) {
    if (errno == EINTR || errno == EAGAIN) return Interrupted{};
    return fail_errno(ErrorKind::kFailed, "KVM_RUN failed");
  }
  return decode_exit();
}

void Vcpu::request_exit() {
  std::atomic_ref(run_page().immediate_exit).store(1, std::memory_order_release);
}

void Vcpu::allow_run() {
  std::atomic_ref(run_page().immediate_exit).store(0, std::memory_order_release);
}

Result<> Vcpu::inject_data_abort() {
  kvm_vcpu_events events{};
  events.exception.ext_dabt_pending = 1;
  TRY(KVM_CALL(fd_, KVM_SET_VCPU_EVENTS, &events));
  return success();
}

kvm_run& Vcpu::run_page() const {
  return *reinterpret_cast<kvm_run*>(run_mapping_.data());
}

Result<std::uint64_t> Vcpu::get_register(std::uint64_t id) const {
  std::uint64_t value = 0;
  kvm_one_reg reg{.id = id, .addr = reinterpret_cast<std::uintptr_t>(&value)};
  TRY(KVM_CALL(fd_, KVM_GET_ONE_REG, &reg));
  return value;
}

Result<> Vcpu::set_register(std::uint64_t id, std::uint64_t value) {
  kvm_one_reg reg{.id = id, .addr = reinterpret_cast<std::uintptr_t>(&value)};
  TRY(KVM_CALL(fd_, KVM_SET_ONE_REG, &reg));
  return success();
}

Exit Vcpu::decode_exit() const {
  kvm_run& run = run_page();
  switch (run.exit_reason) {
    case KVM_EXIT_MMIO: {
      const auto data = std::as_writable_bytes(std::span(run.mmio.data)).first(run.mmio.len);
      if (run.mmio.is_write != 0) return MmioWrite{run.mmio.phys_addr, data};
      return MmioRead{run.mmio.phys_addr, data};
    }
    case KVM_EXIT_ARM_NISV:
      return UndecodedAccess{run.arm_nisv.fault_ipa};
    case KVM_EXIT_SYSTEM_EVENT:
      switch (run.system_event.type) {
        case KVM_SYSTEM_EVENT_SHUTDOWN:
          return SystemEvent::kShutdown;
        case KVM_SYSTEM_EVENT_RESET:
          return SystemEvent::kReset;
        case KVM_SYSTEM_EVENT_CRASH:
          return SystemEvent::kCrash;
        default:
          return Failure{run.exit_reason, run.system_event.type};
      }
    case KVM_EXIT_INTR:
      return Interrupted{};
    case KVM_EXIT_FAIL_ENTRY:
      return Failure{run.exit_reason, run.fail_entry.hardware_entry_failure_reason};
    case KVM_EXIT_INTERNAL_ERROR:
      return Failure{run.exit_reason, run.internal.suberror};
    default:
      return Failure{run.exit_reason, 0};
  }
}

}  // namespace vmm::kvm
