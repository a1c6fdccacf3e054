#include "kvm/gic_state.h"

#include <algorithm>

namespace vmm::kvm {
namespace {

constexpr std::uint32_t kVersion = 1;

// Offsets in the distributor's frame.
constexpr std::uint32_t kCtlr = 0x0000;
constexpr std::uint32_t kStatusr = 0x0010;
constexpr std::uint32_t kIgroupr = 0x0080;
constexpr std::uint32_t kIsenabler = 0x0100;
constexpr std::uint32_t kIcenabler = 0x0180;
constexpr std::uint32_t kIspendr = 0x0200;
constexpr std::uint32_t kIsactiver = 0x0300;
constexpr std::uint32_t kIcactiver = 0x0380;
constexpr std::uint32_t kIpriorityr = 0x0400;
constexpr std::uint32_t kIcfgr = 0x0c00;
constexpr std::uint32_t kIrouter = 0x6000;
// Offsets in a redistributor's first frame; its second one, 64 KiB on, has the registers of
// private interrupts where the distributor has those of shared ones.
constexpr std::uint32_t kWaker = 0x0014;
constexpr std::uint32_t kSgiFrame = 0x1'0000;

// Appends the words of a register array that has `bits` bits per interrupt, for interrupts from
// `first` on.
void append(std::vector<GicRegister>& table, std::uint32_t base, unsigned bits, unsigned first,
            unsigned end, std::uint32_t clear_base = 0) {
  for (unsigned byte = first * bits / 8; byte < end * bits / 8; byte += 4) {
    table.push_back({base + byte, clear_base == 0 ? 0 : clear_base + byte});
  }
}

constexpr std::uint32_t interface_register(unsigned crn, unsigned crm, unsigned op2) {
  return 3U << 14 | crn << 7 | crm << 3 | op2;
}

template <typename T>
void put_values(ByteWriter& writer, const std::vector<T>& values) {
  for (const auto value : values) writer.put(value);
}

template <typename T>
Result<std::vector<T>> get_values(ByteReader& reader, std::size_t count) {
  std::vector<T> values;
  for (std::size_t i = 0; i < count; ++i) {
    TRY(const auto value, reader.get<T>());
    values.push_back(value);
  }
  return values;
}

Result<GicState::Cpu> restore_cpu(ByteReader& reader) {
  GicState::Cpu cpu;
  TRY(cpu.affinity, reader.get<std::uint64_t>());
  TRY(cpu.redistributor, get_values<std::uint32_t>(reader, gic_redistributor_registers().size()));
  TRY(cpu.line_levels, reader.get<std::uint32_t>());
  TRY(cpu.control, reader.get<std::uint64_t>());
  TRY(cpu.interface,
      get_values<std::uint64_t>(reader, gic_interface_registers(cpu.control).size()));
  return cpu;
}

}  // namespace

std::vector<GicRegister> gic_distributor_registers(unsigned interrupts) {
  constexpr unsigned kFirst = kPrivateInterrupts;
  std::vector<GicRegister> table{{kCtlr}, {kStatusr}};
  append(table, kIgroupr, 1, kFirst, interrupts);
  append(table, kIcfgr, 2, kFirst, interrupts);
  append(table, kIpriorityr, 8, kFirst, interrupts);
  // Only the lower words: the upper ones hold Aff3, which KVM's GIC does not have (GICD_TYPER.A3V).
  for (unsigned interrupt = kFirst; interrupt < interrupts; ++interrupt) {
    table.push_back({kIrouter + 8 * interrupt});
  }
  append(table, kIsenabler, 1, kFirst, interrupts, kIcenabler);
  // No clear first: KVM has a write to the pending latches clear what is not set.
  append(table, kIspendr, 1, kFirst, interrupts);
  append(table, kIsactiver, 1, kFirst, interrupts, kIcactiver);
  return table;
}

std::vector<GicRegister> gic_redistributor_registers() {
  constexpr unsigned kEnd = kPrivateInterrupts;
  std::vector<GicRegister> table{{kCtlr}, {kStatusr}, {kWaker}};
  append(table, kSgiFrame + kIgroupr, 1, 0, kEnd);
  append(table, kSgiFrame + kIcfgr, 2, 0, kEnd);
  append(table, kSgiFrame + kIpriorityr, 8, 0, kEnd);
  append(table, kSgiFrame + kIsenabler, 1, 0, kEnd, kSgiFrame + kIcenabler);
  append(table, kSgiFrame + kIspendr, 1, 0, kEnd);
  append(table, kSgiFrame + kIsactiver, 1, 0, kEnd, kSgiFrame + kIcactiver);
  return table;
}

std::vector<std::uint32_t> gic_interface_registers(std::uint64_t control) {
  constexpr auto kSre = interface_register(12, 12, 5);
  constexpr auto kPmr = interface_register(4, 6, 0);
  constexpr auto kBpr0 = interface_register(12, 8, 3);
  constexpr auto kBpr1 = interface_register(12, 12, 3);
  constexpr auto kGroup0Enable = interface_register(12, 12, 6);
  constexpr auto kGroup1Enable = interface_register(12, 12, 7);
  // ICC_CTLR_EL1 (kIccCtlrEl1) goes ahead of them all: with CBPR set, BPR1 is not written.
  std::vector<std::uint32_t> table{kSre, kPmr, kBpr0, kBpr1};
  const auto priority_bits = (control >> 8 & 0x7) + 1;
  const unsigned active = priority_bits >= 7 ? 4 : priority_bits == 6 ? 2 : 1;
  for (unsigned n = 0; n < active; ++n) table.push_back(interface_register(12, 8, 4 + n));
  for (unsigned n = 0; n < active; ++n) table.push_back(interface_register(12, 9, n));
  table.push_back(kGroup0Enable);
  table.push_back(kGroup1Enable);
  return table;
}

unsigned gic_interrupts(std::uint32_t typer) {
  return 32 * ((typer & 0x1f) + 1);
}

void GicState::save(ByteWriter& writer) const {
  writer.put(kVersion);
  writer.put(iidr);
  writer.put(typer);
  put_values(writer, distributor);
  put_values(writer, line_levels);
  writer.put(static_cast<std::uint32_t>(cpus.size()));
  for (const auto& cpu : cpus) {
    writer.put(cpu.affinity);
    put_values(writer, cpu.redistributor);
    writer.put(cpu.line_levels);
    writer.put(cpu.control);
    put_values(writer, cpu.interface);
  }
}

Result<GicState> GicState::restore(ByteReader& reader) {
  TRY(const auto version, reader.get<std::uint32_t>());
  if (version != kVersion) {
    return fail(ErrorKind::kFailed, "GIC state has version {}, {} is understood here", version,
                kVersion);
  }
  GicState state;
  TRY(state.iidr, reader.get<std::uint32_t>());
  TRY(state.typer, reader.get<std::uint32_t>());
  const auto interrupts = gic_interrupts(state.typer);
  TRY(state.distributor,
      get_values<std::uint32_t>(reader, gic_distributor_registers(interrupts).size()));
  TRY(state.line_levels, get_values<std::uint32_t>(reader, (interrupts - kPrivateInterrupts) / 32));
  TRY(const auto count, reader.get<std::uint32_t>());
  if (count > kMaxCpus) {
    return fail(ErrorKind::kFailed, "GIC state has {} vCPUs, {} are allowed", count, kMaxCpus);
  }
  for (std::uint32_t i = 0; i < count; ++i) {
    TRY(auto cpu, restore_cpu(reader));
    if (std::ranges::find(state.cpus, cpu.affinity, &Cpu::affinity) != state.cpus.end()) {
      return fail(ErrorKind::kFailed, "GIC state has affinity {:#x} twice", cpu.affinity);
    }
    state.cpus.push_back(std::move(cpu));
  }
  return state;
}

}  // namespace vmm::kvm
