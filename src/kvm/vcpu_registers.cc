#include <linux/kvm.h>

#include <array>
#include <cstring>

#include "kvm/host_counter.h"
#include "kvm/id_registers.h"
#include "kvm/ioctl.h"
#include "kvm/register_id.h"
#include "kvm/vcpu.h"

// How a vCPU's registers are saved and restored. The order is that of KVM_GET_REG_LIST, which
// begins with the core registers; the vector lengths of SVE were set when the vCPU was made.

namespace vmm::kvm {
namespace {

static_assert(kMpidrEl1 == ARM64_SYS_REG(3, 0, 0, 0, 5));
static_assert(kSveVectorLengths == KVM_REG_ARM64_SVE_VLS);
static_assert(kVirtualCount == KVM_REG_ARM_TIMER_CNT);
static_assert(kVirtualCompare == KVM_REG_ARM_TIMER_CVAL);
static_assert(kVirtualControl == KVM_REG_ARM_TIMER_CTL);
static_assert(kPhysicalCount == KVM_REG_ARM_PTIMER_CNT);
static_assert(kPhysicalCompare == KVM_REG_ARM_PTIMER_CVAL);
static_assert(kPhysicalControl == KVM_REG_ARM_PTIMER_CTL);

struct PowerName {
  PowerState state;
  std::uint32_t kvm;
};
constexpr PowerName kPowerNames[] = {
    {PowerState::kOn, KVM_MP_STATE_RUNNABLE},
    {PowerState::kOff, KVM_MP_STATE_STOPPED},
    {PowerState::kSuspended, KVM_MP_STATE_SUSPENDED},
};

}  // namespace

Result<std::vector<std::uint64_t>> Vcpu::register_ids() const {
  // The kernel wants a count followed by room for as many, and says how many it has if too few.
  constexpr std::size_t kMostRegisters = 4096;
  std::vector<std::uint64_t> list(1 + kMostRegisters);
  list[0] = kMostRegisters;
  TRY(KVM_CALL(fd_, KVM_GET_REG_LIST, list.data()));
  const auto count = list[0];
  list.erase(list.begin());
  list.resize(count);
  return list;
}

Result<RegisterValue> Vcpu::get_value(std::uint64_t id) const {
  RegisterValue value{id, std::vector<std::byte>(register_size(id))};
  if (value.bytes.empty()) {
    return fail(ErrorKind::kHost, "{} is of no size known here", register_name(id));
  }
  kvm_one_reg reg{.id = id, .addr = reinterpret_cast<std::uintptr_t>(value.bytes.data())};
  auto got = KVM_CALL(fd_, KVM_GET_ONE_REG, &reg);
  if (!got) return fail(std::move(got).error().add_context(register_name(id)));
  return value;
}

Result<> Vcpu::set_value(const RegisterValue& value) {
  if (value.bytes.size() != register_size(value.id)) {
    return fail(ErrorKind::kFailed, "{} with {} bytes", register_name(value.id),
                value.bytes.size());
  }
  kvm_one_reg reg{.id = value.id, .addr = reinterpret_cast<std::uintptr_t>(value.bytes.data())};
  auto done = KVM_CALL(fd_, KVM_SET_ONE_REG, &reg);
  if (!done) return fail(std::move(done).error().add_context(register_name(value.id)));
  return success();
}

Result<VcpuState> Vcpu::save() const {
  TRY(const auto ids, register_ids());
  VcpuState state;
  state.registers.reserve(ids.size());
  for (const auto id : ids) {
    if (is_counter(id)) continue;
    if (register_family(id) == RegisterFamily::kUnknown) {
      return fail(ErrorKind::kHost,
                  "this kernel's vCPUs have a register {:#018x}, of a family unknown here: a guest "
                  "cannot be saved without it",
                  id);
    }
    TRY(auto value, get_value(id));
    state.registers.push_back(std::move(value));
  }
  kvm_mp_state power{};
  TRY(KVM_CALL(fd_, KVM_GET_MP_STATE, &power));
  bool known = false;
  for (const auto& name : kPowerNames) {
    if (name.kvm != power.mp_state) continue;
    state.power = name.state;
    known = true;
  }
  if (!known) return fail(ErrorKind::kHost, "a vCPU in MP state {}", power.mp_state);
  kvm_vcpu_events events{};
  TRY(KVM_CALL(fd_, KVM_GET_VCPU_EVENTS, &events));
  state.serror_pending = events.exception.serror_pending != 0;
  state.serror_has_syndrome = events.exception.serror_has_esr != 0;
  state.serror_syndrome = events.exception.serror_esr;
  return state;
}

Result<> Vcpu::restore(const VcpuState& state) {
  TRY(restore_serror(state));
  // What the CPU is comes before what it does: it decides which bits the rest may have.
  for (const auto& value : state.registers) {
    if (is_identity_register(value.id)) {
      TRY(restore_register(value));
    }
  }
  for (const auto& value : state.registers) {
    if (!is_identity_register(value.id)) {
      TRY(restore_register(value));
    }
  }
  return restore_power(state.power);
}

Result<> Vcpu::restore_register(const RegisterValue& value) {
  if (is_counter(value.id) || register_family(value.id) == RegisterFamily::kUnknown) {
    return fail(ErrorKind::kFailed, "{} does not belong into a vCPU's state",
                register_name(value.id));
  }
  // These can be written before the vCPU's first run only, if at all, and never differ by then.
  const bool fixed = value.id == kMpidrEl1 || value.id == kSveVectorLengths;
  if (fixed || is_identity_register(value.id)) {
    TRY(const auto own, get_value(value.id));
    if (own == value) return success();
  }
  if (fixed) {
    return fail(ErrorKind::kFailed, "{} is not that of this vCPU",
                value.id == kMpidrEl1 ? "MPIDR_EL1" : "the set of SVE vector lengths");
  }
  return set_value(value);
}

Result<> Vcpu::restore_serror(const VcpuState& state) {
  kvm_vcpu_events events{};
  TRY(KVM_CALL(fd_, KVM_GET_VCPU_EVENTS, &events));
  if (events.exception.serror_pending != 0) {
    // Only a reset takes a pending SError back; all registers are written afterwards.
    kvm_vcpu_init init{};
    init.target = target_;
    init.features[0] = features_;
    TRY(KVM_CALL(fd_, KVM_ARM_VCPU_INIT, &init));
  }
  if (!state.serror_pending) return success();
  events = {};
  events.exception.serror_pending = 1;
  events.exception.serror_has_esr = state.serror_has_syndrome ? 1 : 0;
  events.exception.serror_esr = state.serror_syndrome;
  TRY(with_context(KVM_CALL(fd_, KVM_SET_VCPU_EVENTS, &events), "pending SError"));
  return success();
}

Result<> Vcpu::restore_power(PowerState power) {
  for (const auto& name : kPowerNames) {
    if (name.state != power) continue;
    kvm_mp_state mp_state{};
    mp_state.mp_state = name.kvm;
    TRY(KVM_CALL(fd_, KVM_SET_MP_STATE, &mp_state));
  }
  return success();
}

Result<Counter> Vcpu::save_counter() const {
  Counter counter;
  counter.frequency_hz = host_counter_hz();
  // Both as of the same moment: time passes between two reads.
  const auto start = host_count();
  TRY(counter.virtual_count, get_register(kVirtualCount));
  const auto middle = host_count();
  TRY(counter.physical_count, get_register(kPhysicalCount));
  counter.physical_count -= middle - start;
  return counter;
}

Result<> Vcpu::restore_counter(const Counter& counter, std::uint64_t elapsed_ns) {
  if (const auto here = host_counter_hz(); here != counter.frequency_hz) {
    return fail(ErrorKind::kHost, "the guest's counter ticks at {} Hz, this host's at {} Hz",
                counter.frequency_hz, here);
  }
  // Setting a count sets the VM's offset of it, for all vCPUs (kvm_arm_timer_set_reg()), so it may
  // be set again. KVM_ARM_SET_COUNTER_OFFSET is no way: it is for both counters at once, though
  // they are not the same to a guest, and makes KVM ignore these writes for good.
  const auto advance = counter_ticks(elapsed_ns, counter.frequency_hz);
  const auto start = host_count();
  TRY(with_context(set_register(kVirtualCount, counter.virtual_count + advance), "CNTVCT_EL0"));
  const auto since = host_count() - start;
  TRY(with_context(set_register(kPhysicalCount, counter.physical_count + advance + since),
                   "CNTPCT_EL0"));
  return success();
}

}  // namespace vmm::kvm
