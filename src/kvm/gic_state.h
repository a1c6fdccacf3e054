#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"

namespace vmm::kvm {

// A register of the distributor or of a redistributor, by its offset (IHI 0069, chapter 12).
struct GicRegister {
  std::uint32_t offset = 0;
  // Where a write of ones only sets: the register that clears, written with the inverse first.
  std::uint32_t clear_offset = 0;
  [[nodiscard]] bool operator==(const GicRegister&) const = default;
};

inline constexpr unsigned kPrivateInterrupts = 32;  // SGIs and PPIs, of each vCPU
inline constexpr unsigned kMaxInterrupts = 1024;

// The registers that are saved, in the order in which they are written: what an interrupt is
// (group, trigger, priority, route) before its state (enabled, pending, active), so that nothing
// is queued for the wrong vCPU. IIDR and TYPER are not among them: they come first of all.
// interrupts is a multiple of 32 from 32 to kMaxInterrupts.
[[nodiscard]] std::vector<GicRegister> gic_distributor_registers(unsigned interrupts);
[[nodiscard]] std::vector<GicRegister> gic_redistributor_registers();

// System registers of the CPU interface, as `instr` of KVM_DEV_ARM_VGIC_GRP_CPU_SYSREGS; control
// is ICC_CTLR_EL1, whose PRIbits say how many active-priority registers there are.
[[nodiscard]] std::vector<std::uint32_t> gic_interface_registers(std::uint64_t control);
inline constexpr std::uint32_t kIccCtlrEl1 = 3U << 14 | 12U << 7 | 12U << 3 | 4U;

// Number of interrupts by GICD_TYPER.ITLinesNumber.
[[nodiscard]] unsigned gic_interrupts(std::uint32_t typer);

// The interrupt controller, in plain values: those of the tables above, in their order.
struct GicState {
  struct Cpu {
    std::uint64_t affinity = 0;  // MPIDR_EL1's affinity fields
    std::vector<std::uint32_t> redistributor;
    std::uint32_t line_levels = 0;  // a bit per private interrupt
    std::uint64_t control = 0;      // ICC_CTLR_EL1
    std::vector<std::uint64_t> interface;
    [[nodiscard]] bool operator==(const Cpu&) const = default;
  };

  std::uint32_t iidr = 0;
  std::uint32_t typer = 0;
  std::vector<std::uint32_t> distributor;
  std::vector<std::uint32_t> line_levels;  // a word for each 32 shared interrupts
  std::vector<Cpu> cpus;                   // in order of their index

  [[nodiscard]] bool operator==(const GicState&) const = default;

  // Appends a version (u32), then the fields.
  void save(ByteWriter& writer) const;
  // From bytes nobody vouches for. On success all vectors have the lengths that typer and control
  // ask for, and there are at most kMaxCpus vCPUs of different affinities.
  [[nodiscard]] static Result<GicState> restore(ByteReader& reader);

  static constexpr std::size_t kMaxCpus = 512;
};

}  // namespace vmm::kvm
