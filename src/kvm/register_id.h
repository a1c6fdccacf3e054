#pragma once

#include <cstddef>
#include <cstdint>

namespace vmm::kvm {

// Names of a vCPU's registers as KVM_GET_ONE_REG knows them (Documentation/virt/kvm/api.rst), spelt
// out here so that what handles saved registers also builds where the arm64 headers are not.
// src/kvm/vcpu_registers.cc checks them against the kernel's own definitions.

inline constexpr std::uint64_t kRegisterArm64 = 0x6000'0000'0000'0000;
inline constexpr unsigned kRegisterSizeShift = 52;
inline constexpr std::uint64_t kRegisterU32 = 2ULL << kRegisterSizeShift;
inline constexpr std::uint64_t kRegisterU64 = 3ULL << kRegisterSizeShift;
inline constexpr std::uint64_t kRegisterU512 = 6ULL << kRegisterSizeShift;

// Bytes of the largest register there is, an SVE vector (KVM_REG_SIZE_U2048).
inline constexpr std::size_t kMaxRegisterSize = 256;

enum class RegisterFamily : std::uint8_t {
  kCore = 0x10,              // general purpose and floating point
  kDemux = 0x11,             // cache geometry, an identifier for each cache
  kSystem = 0x13,            // system registers
  kFirmware = 0x14,          // PSCI version, mitigations
  kSve = 0x15,               // vectors, predicates and the set of vector lengths
  kFirmwareFeatures = 0x16,  // bitmaps of hypercall services
  kUnknown = 0xff,
};

// The family that an identifier's bits say, kUnknown for those this program has no rule for.
[[nodiscard]] constexpr RegisterFamily register_family(std::uint64_t id) {
  if (id >> 56 != kRegisterArm64 >> 56) return RegisterFamily::kUnknown;
  switch (const auto family = static_cast<std::uint8_t>(id >> 16); family) {
    case 0x10:
    case 0x11:
    case 0x13:
    case 0x14:
    case 0x15:
    case 0x16:
      return (id >> 24 & 0xf) == 0 ? static_cast<RegisterFamily>(family) : RegisterFamily::kUnknown;
    default:
      return RegisterFamily::kUnknown;
  }
}

// Bytes of a register, 0 where its identifier says more than kMaxRegisterSize.
[[nodiscard]] constexpr std::size_t register_size(std::uint64_t id) {
  const auto shift = static_cast<unsigned>(id >> kRegisterSizeShift & 0xf);
  return shift <= 8 ? std::size_t{1} << shift : 0;
}

[[nodiscard]] constexpr std::uint64_t system_register(unsigned op0, unsigned op1, unsigned crn,
                                                      unsigned crm, unsigned op2) {
  return kRegisterArm64 | kRegisterU64 | 0x13'0000ULL | std::uint64_t{op0} << 14 |
         std::uint64_t{op1} << 11 | std::uint64_t{crn} << 7 | std::uint64_t{crm} << 3 | op2;
}

inline constexpr std::uint64_t kMpidrEl1 = system_register(3, 0, 0, 0, 5);
inline constexpr std::uint64_t kSveVectorLengths =
    kRegisterArm64 | kRegisterU512 | 0x15'0000ULL | 0xffff;

// The counters and the virtual timer. KVM's identifiers of CNTVCT_EL0 and CNTV_CVAL_EL0 do not
// follow the encodings of those registers: they are swapped, for good.
inline constexpr std::uint64_t kVirtualCount = system_register(3, 3, 14, 3, 2);
inline constexpr std::uint64_t kVirtualCompare = system_register(3, 3, 14, 0, 2);
inline constexpr std::uint64_t kVirtualControl = system_register(3, 3, 14, 3, 1);
inline constexpr std::uint64_t kPhysicalCount = system_register(3, 3, 14, 0, 1);
inline constexpr std::uint64_t kPhysicalCompare = system_register(3, 3, 14, 2, 2);
inline constexpr std::uint64_t kPhysicalControl = system_register(3, 3, 14, 2, 1);

// A count is the same for all vCPUs of a VM, so no vCPU's state has it (counter.h).
[[nodiscard]] constexpr bool is_counter(std::uint64_t id) {
  return id == kVirtualCount || id == kPhysicalCount;
}

}  // namespace vmm::kvm
