#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <variant>

namespace vmm::kvm {

// Why KVM_RUN returned. Plain values without kernel types, so that the code that handles exits can
// be tested anywhere.

// The guest reads data.size() (1, 2, 4 or 8) bytes at an address that no memslot backs. The handler
// stores the little-endian value in data before the vCPU runs again.
struct MmioRead {
  std::uint64_t address;
  std::span<std::byte> data;
};

struct MmioWrite {
  std::uint64_t address;
  std::span<const std::byte> data;
};

// An access outside of memory with an instruction that the CPU does not decode for the hypervisor
// (a load pair, for example); the guest gets a data abort for it.
struct UndecodedAccess {
  std::uint64_t address;
};

// PSCI SYSTEM_OFF and SYSTEM_RESET (ARM DEN 0022), or a crash reported by the guest.
enum class SystemEvent { kShutdown, kReset, kCrash };

// KVM_RUN came back without an event of the guest: a signal or a request to leave the guest.
struct Interrupted {};

// KVM cannot go on with this vCPU.
struct Failure {
  std::uint32_t exit_reason;  // KVM_EXIT_*
  std::uint64_t detail;       // hardware entry failure reason or KVM_INTERNAL_ERROR_*
};

using Exit = std::variant<MmioRead, MmioWrite, UndecodedAccess, SystemEvent, Interrupted, Failure>;

}  // namespace vmm::kvm
