#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"
#include "devices/device.h"
#include "kvm/counter.h"
#include "kvm/cpu_identity.h"
#include "kvm/gic_state.h"
#include "kvm/vcpu_state.h"

namespace vmm {

// What a guest can tell its machine by, and must find the same on another host.
struct MachineIdentity {
  kvm::CpuIdentity cpu;
  std::uint32_t gic_iidr = 0;
  [[nodiscard]] bool operator==(const MachineIdentity&) const = default;
};
[[nodiscard]] std::vector<std::byte> encode(const MachineIdentity& identity);
// From a peer: everything is checked.
[[nodiscard]] Result<MachineIdentity> decode_identity(std::span<const std::byte> bytes);

// What KVM keeps of a machine.
struct MachineState {
  std::vector<kvm::VcpuState> vcpus;  // in order of their index
  kvm::GicState gic;
  kvm::Counter counter;
  [[nodiscard]] bool operator==(const MachineState&) const = default;
};
void encode(const MachineState& state, ByteWriter& writer);
// From a peer: everything is checked. Error where it has another number of vCPUs.
[[nodiscard]] Result<MachineState> decode_state(ByteReader& reader, std::size_t vcpus);

// The states of devices, each with its name. Devices are those of the same machine, in the same
// order; restoring resets each one first, and an error leaves some of them reset.
void save_devices(std::span<Device* const> devices, ByteWriter& writer);
[[nodiscard]] Result<> restore_devices(std::span<Device* const> devices, ByteReader& reader);

}  // namespace vmm
