#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace vmm::kvm {

// A field of an ID register: its lowest bit and its width.
struct IdField {
  std::string_view name;
  std::uint8_t shift;
  std::uint8_t width;
};

// Whether a register, by KVM's identifier, says what the CPU or its firmware is (ID registers, CTR,
// cache geometry, firmware pseudo-registers) rather than what it is doing. MPIDR_EL1 is not one:
// each vCPU has its own.
[[nodiscard]] bool is_identity_register(std::uint64_t id);

// The name in the Arm ARM or in KVM's API, or one made of the encoding where this program knows no
// other ("S3_0_C0_C5_2").
[[nodiscard]] std::string register_name(std::uint64_t id);

// The fields of an ID register, from bit 0 up; empty where this program knows none.
[[nodiscard]] std::span<const IdField> id_fields(std::uint64_t id);

}  // namespace vmm::kvm
