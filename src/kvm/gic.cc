#include "kvm/gic.h"

#include <linux/kvm.h>

#include <algorithm>

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

// Offsets in the distributor's frame and in a redistributor's first one.
constexpr std::uint32_t kTyper = 0x0004;
constexpr std::uint32_t kIidr = 0x0008;
constexpr std::uint32_t kRedistributorCtlr = 0x0000;
constexpr std::uint32_t kEnableLpis = 1;

// The vCPU in an attribute's upper half, as KVM_DEV_ARM_VGIC_V3_MPIDR_MASK has it: Aff3 to Aff0
// without the gap that MPIDR_EL1 has.
std::uint64_t attribute_of(std::uint64_t affinity, std::uint32_t offset) {
  const std::uint64_t packed = (affinity >> 32 & 0xff) << 24 | (affinity & 0xff'ffff);
  return packed << KVM_DEV_ARM_VGIC_V3_MPIDR_SHIFT | offset;
}

std::uint64_t level_attribute(std::uint64_t affinity, std::uint32_t interrupt) {
  return attribute_of(affinity, std::uint32_t{VGIC_LEVEL_INFO_LINE_LEVEL}
                                        << KVM_DEV_ARM_VGIC_LINE_LEVEL_INFO_SHIFT |
                                    interrupt);
}

template <typename T>
Result<T> get_attribute(const Fd& fd, std::uint32_t group, std::uint64_t number) {
  T value{};
  kvm_device_attr attribute{};
  attribute.group = group;
  attribute.attr = number;
  attribute.addr = reinterpret_cast<std::uintptr_t>(&value);
  auto got = KVM_CALL(fd, KVM_GET_DEVICE_ATTR, &attribute);
  if (!got) {
    return fail(
        std::move(got).error().add_context(fmt::format("GIC attribute {}/{:#x}", group, number)));
  }
  return value;
}

template <typename T>
Result<> put_attribute(const Fd& fd, std::uint32_t group, std::uint64_t number, T value) {
  auto done = set_attribute(fd, group, number, &value);
  if (!done) {
    return fail(std::move(done).error().add_context(
        fmt::format("GIC attribute {}/{:#x} = {:#x}", group, number, value)));
  }
  return done;
}

// The registers of a table, one by one.
Result<std::vector<std::uint32_t>> save_registers(const Fd& fd, std::uint32_t group,
                                                  std::uint64_t affinity,
                                                  const std::vector<GicRegister>& table) {
  std::vector<std::uint32_t> values;
  values.reserve(table.size());
  for (const auto& reg : table) {
    TRY(const auto value,
        get_attribute<std::uint32_t>(fd, group, attribute_of(affinity, reg.offset)));
    values.push_back(value);
  }
  return values;
}

Result<> restore_registers(const Fd& fd, std::uint32_t group, std::uint64_t affinity,
                           const std::vector<GicRegister>& table,
                           const std::vector<std::uint32_t>& values) {
  if (values.size() != table.size()) {
    return fail(ErrorKind::kFailed, "GIC state has {} registers where {} are expected",
                values.size(), table.size());
  }
  for (std::size_t i = 0; i < table.size(); ++i) {
    const auto& [offset, clear_offset] = table[i];
    if (clear_offset != 0) {
      TRY(put_attribute(fd, group, attribute_of(affinity, clear_offset), ~values[i]));
    }
    TRY(put_attribute(fd, group, attribute_of(affinity, offset), values[i]));
  }
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

Result<std::uint32_t> Gic::iidr() const {
  return get_attribute<std::uint32_t>(fd_, KVM_DEV_ARM_VGIC_GRP_DIST_REGS, kIidr);
}

Result<> Gic::set_iidr(std::uint32_t wanted) {
  TRY(const auto own, iidr());
  if (own == wanted) return success();
  if (!put_attribute(fd_, KVM_DEV_ARM_VGIC_GRP_DIST_REGS, kIidr, wanted)) {
    return fail(ErrorKind::kHost, "GICD_IIDR is {:#x} at the source and {:#x} here", wanted, own);
  }
  return success();
}

Result<GicState> Gic::save(std::span<const std::uint64_t> affinities) const {
  GicState state;
  TRY(state.iidr, iidr());
  TRY(state.typer, get_attribute<std::uint32_t>(fd_, KVM_DEV_ARM_VGIC_GRP_DIST_REGS, kTyper));
  const auto interrupts = gic_interrupts(state.typer);
  TRY(state.distributor, save_registers(fd_, KVM_DEV_ARM_VGIC_GRP_DIST_REGS, 0,
                                        gic_distributor_registers(interrupts)));
  for (unsigned first = kPrivateInterrupts; first < interrupts; first += 32) {
    TRY(const auto levels, get_attribute<std::uint32_t>(fd_, KVM_DEV_ARM_VGIC_GRP_LEVEL_INFO,
                                                        level_attribute(affinities[0], first)));
    state.line_levels.push_back(levels);
  }
  for (const auto affinity : affinities) {
    TRY(auto cpu, save_cpu(affinity));
    state.cpus.push_back(std::move(cpu));
  }
  return state;
}

Result<GicState::Cpu> Gic::save_cpu(std::uint64_t affinity) const {
  GicState::Cpu cpu;
  cpu.affinity = affinity;
  TRY(const auto control, get_attribute<std::uint32_t>(fd_, KVM_DEV_ARM_VGIC_GRP_REDIST_REGS,
                                                       attribute_of(affinity, kRedistributorCtlr)));
  if ((control & kEnableLpis) != 0) {
    return fail(ErrorKind::kHost, "the guest has enabled LPIs, which cannot be saved");
  }
  TRY(cpu.redistributor, save_registers(fd_, KVM_DEV_ARM_VGIC_GRP_REDIST_REGS, affinity,
                                        gic_redistributor_registers()));
  TRY(cpu.line_levels, get_attribute<std::uint32_t>(fd_, KVM_DEV_ARM_VGIC_GRP_LEVEL_INFO,
                                                    level_attribute(affinity, 0)));
  TRY(cpu.control, get_attribute<std::uint64_t>(fd_, KVM_DEV_ARM_VGIC_GRP_CPU_SYSREGS,
                                                attribute_of(affinity, kIccCtlrEl1)));
  for (const auto reg : gic_interface_registers(cpu.control)) {
    TRY(const auto value, get_attribute<std::uint64_t>(fd_, KVM_DEV_ARM_VGIC_GRP_CPU_SYSREGS,
                                                       attribute_of(affinity, reg)));
    cpu.interface.push_back(value);
  }
  return cpu;
}

Result<> Gic::restore(const GicState& state, std::span<const std::uint64_t> affinities) {
  TRY(const auto typer, get_attribute<std::uint32_t>(fd_, KVM_DEV_ARM_VGIC_GRP_DIST_REGS, kTyper));
  if (typer != state.typer) {
    return fail(ErrorKind::kFailed, "GICD_TYPER is {:#x} at the source and {:#x} here", state.typer,
                typer);
  }
  if (!std::ranges::equal(state.cpus, affinities, {}, &GicState::Cpu::affinity)) {
    return fail(ErrorKind::kFailed, "the GIC's state is not of the vCPUs that are here");
  }
  TRY(set_iidr(state.iidr));
  const auto interrupts = gic_interrupts(typer);
  TRY(restore_registers(fd_, KVM_DEV_ARM_VGIC_GRP_DIST_REGS, 0,
                        gic_distributor_registers(interrupts), state.distributor));
  for (const auto& cpu : state.cpus) {
    TRY(restore_cpu(cpu));
  }
  // Levels last: KVM queues a line that is high for the vCPU it is routed to by then.
  for (std::size_t word = 0; word < state.line_levels.size(); ++word) {
    const auto first = static_cast<std::uint32_t>(kPrivateInterrupts + 32 * word);
    TRY(put_attribute(fd_, KVM_DEV_ARM_VGIC_GRP_LEVEL_INFO, level_attribute(affinities[0], first),
                      state.line_levels[word]));
  }
  return success();
}

Result<> Gic::restore_cpu(const GicState::Cpu& cpu) {
  TRY(restore_registers(fd_, KVM_DEV_ARM_VGIC_GRP_REDIST_REGS, cpu.affinity,
                        gic_redistributor_registers(), cpu.redistributor));
  TRY(put_attribute(fd_, KVM_DEV_ARM_VGIC_GRP_CPU_SYSREGS, attribute_of(cpu.affinity, kIccCtlrEl1),
                    cpu.control));
  const auto table = gic_interface_registers(cpu.control);
  if (cpu.interface.size() != table.size()) {
    return fail(ErrorKind::kFailed, "GIC state has {} interface registers where {} are expected",
                cpu.interface.size(), table.size());
  }
  for (std::size_t i = 0; i < table.size(); ++i) {
    TRY(put_attribute(fd_, KVM_DEV_ARM_VGIC_GRP_CPU_SYSREGS, attribute_of(cpu.affinity, table[i]),
                      cpu.interface[i]));
  }
  return put_attribute(fd_, KVM_DEV_ARM_VGIC_GRP_LEVEL_INFO, level_attribute(cpu.affinity, 0),
                       cpu.line_levels);
}

}  // namespace vmm::kvm
