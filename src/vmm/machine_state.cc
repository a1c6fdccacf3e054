#include "vmm/machine_state.h"

#include "migration/peer_text.h"

namespace vmm {
namespace {

constexpr std::uint32_t kVersion = 1;
constexpr std::size_t kMaxDeviceName = 64;
constexpr std::size_t kMaxDeviceState = 1 << 20;

Result<> expect_version(ByteReader& reader) {
  TRY(const auto version, reader.get<std::uint32_t>());
  if (version == kVersion) return success();
  return fail(ErrorKind::kFailed, "machine state has version {}, and {} is known here", version,
              kVersion);
}

}  // namespace

std::vector<std::byte> encode(const MachineIdentity& identity) {
  ByteWriter writer;
  writer.put(kVersion);
  identity.cpu.save(writer);
  writer.put(identity.gic_iidr);
  return writer.take();
}

Result<MachineIdentity> decode_identity(std::span<const std::byte> bytes) {
  ByteReader reader(bytes);
  TRY(expect_version(reader));
  MachineIdentity identity;
  TRY(identity.cpu, kvm::CpuIdentity::restore(reader));
  TRY(identity.gic_iidr, reader.get<std::uint32_t>());
  TRY(reader.expect_end());
  return identity;
}

void encode(const MachineState& state, ByteWriter& writer) {
  writer.put(kVersion);
  writer.put(static_cast<std::uint32_t>(state.vcpus.size()));
  for (const auto& vcpu : state.vcpus) vcpu.save(writer);
  state.gic.save(writer);
  state.counter.save(writer);
}

Result<MachineState> decode_state(ByteReader& reader, std::size_t vcpus) {
  TRY(expect_version(reader));
  TRY(const auto count, reader.get<std::uint32_t>());
  if (count != vcpus) {
    return fail(ErrorKind::kFailed, "the state is of {} vCPUs, and the machine has {}", count,
                vcpus);
  }
  MachineState state;
  for (std::uint32_t index = 0; index < count; ++index) {
    TRY(auto vcpu, kvm::VcpuState::restore(reader));
    state.vcpus.push_back(std::move(vcpu));
  }
  TRY(state.gic, kvm::GicState::restore(reader));
  TRY(state.counter, kvm::Counter::restore(reader));
  return state;
}

void save_devices(std::span<Device* const> devices, ByteWriter& writer) {
  writer.put(static_cast<std::uint32_t>(devices.size()));
  for (const Device* device : devices) {
    ByteWriter state;
    device->save(state);
    writer.put_string(device->name());
    writer.put_blob(state.bytes());
  }
}

Result<> restore_devices(std::span<Device* const> devices, ByteReader& reader) {
  TRY(const auto count, reader.get<std::uint32_t>());
  if (count != devices.size()) {
    return fail(ErrorKind::kFailed, "the state is of {} devices, and the machine has {}", count,
                devices.size());
  }
  for (Device* device : devices) {
    TRY(const auto name, reader.get_string(kMaxDeviceName));
    if (name != device->name()) {
      return fail(ErrorKind::kFailed, "the state is of device {} where the machine has {}",
                  migration::printable(name), device->name());
    }
    TRY(const auto bytes, reader.get_blob(kMaxDeviceState));
    ByteReader state(bytes);
    device->reset();
    TRY(with_context(device->restore(state), name));
    TRY(with_context(state.expect_end(), name));
  }
  return success();
}

}  // namespace vmm
