#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"

namespace vmm::kvm {

// A register of a vCPU by KVM's identifier (register_id.h), with as many bytes as that says.
struct RegisterValue {
  std::uint64_t id = 0;
  std::vector<std::byte> bytes;
  [[nodiscard]] bool operator==(const RegisterValue&) const = default;
};

// Whether a vCPU runs when its thread does (KVM_GET_MP_STATE).
enum class PowerState : std::uint8_t {
  kOn,
  kOff,        // not yet started, or stopped, by PSCI
  kSuspended,  // waits for an interrupt after PSCI SYSTEM_SUSPEND
};

// What a vCPU is, apart from its interrupts (gic_state.h) and the counters (counter.h), in plain
// values. Registers are in the order of KVM_GET_REG_LIST, each once.
struct VcpuState {
  std::vector<RegisterValue> registers;
  PowerState power = PowerState::kOn;
  // An SError that the guest takes when it unmasks it, with its syndrome where the CPU has one.
  bool serror_pending = false;
  bool serror_has_syndrome = false;
  std::uint64_t serror_syndrome = 0;

  [[nodiscard]] bool operator==(const VcpuState&) const = default;

  // The register's value, or nullptr.
  [[nodiscard]] const RegisterValue* find(std::uint64_t id) const;

  // Appends a version (u32), then the fields.
  void save(ByteWriter& writer) const;
  // From bytes nobody vouches for; error for a register of an unknown family or size, one that
  // comes twice, a counter, and counts beyond any real CPU's. Values are not looked at.
  [[nodiscard]] static Result<VcpuState> restore(ByteReader& reader);
};

// The value, extended by zeros; error for a register of more than 64 bits.
[[nodiscard]] Result<std::uint64_t> as_u64(const RegisterValue& value);

}  // namespace vmm::kvm
