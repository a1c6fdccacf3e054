#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"

namespace vmm::kvm {

// An identity register (id_registers.h) and its value.
struct IdValue {
  std::uint64_t id = 0;
  std::uint64_t value = 0;
  [[nodiscard]] bool operator==(const IdValue&) const = default;
};

// Bit n set: vectors of n + 1 times 16 bytes (KVM_REG_ARM64_SVE_VLS). Empty without SVE.
using SveLengths = std::vector<std::uint64_t>;
inline constexpr std::size_t kSveLengthWords = 8;

// What a guest can tell its CPUs by, and what it must find the same on another host.
struct CpuIdentity {
  std::uint64_t counter_hz = 0;  // CNTFRQ_EL0
  std::uint64_t page_size = 0;   // of the host, in bytes
  std::uint64_t dczid = 0;       // DCZID_EL0: bytes that DC ZVA clears; no hypervisor changes it
  std::vector<IdValue> registers;
  SveLengths sve_lengths;
  std::vector<std::uint64_t> register_ids;  // all that the vCPU has, of any kind

  [[nodiscard]] bool operator==(const CpuIdentity&) const = default;

  // Appends a version (u32), then the fields.
  void save(ByteWriter& writer) const;
  // From bytes nobody vouches for: counts are capped, registers are identity registers, each of
  // them there once.
  [[nodiscard]] static Result<CpuIdentity> restore(ByteReader& reader);
};

// One thing in which two identities differ.
struct IdDifference {
  std::uint64_t id = 0;  // the identity register, 0 for what is no register that can be written
  std::string name;      // with its field: "ID_AA64ISAR0_EL1.RNDR"
  std::string source;    // both values, for people
  std::string host;
  [[nodiscard]] bool operator==(const IdDifference&) const = default;
};

// What differs between the guest's CPU and the one it would get here. What only this host has
// (registers of a newer KVM) is no difference.
[[nodiscard]] std::vector<IdDifference> compare(const CpuIdentity& source, const CpuIdentity& host);

// "NAME is X at the source and Y here", joined by "; "; at most kMaxDescribed, then how many more.
[[nodiscard]] std::string describe(const std::vector<IdDifference>& differences);
inline constexpr std::size_t kMaxDescribed = 8;

}  // namespace vmm::kvm
