#include "kvm/vcpu_state.h"

#include <algorithm>
#include <cstring>
#include <unordered_set>

#include "kvm/register_id.h"

namespace vmm::kvm {
namespace {

constexpr std::uint32_t kVersion = 1;
// Linux 6.12 lists about 300, 420 with SVE.
constexpr std::uint32_t kMaxRegisters = 4096;

Result<RegisterValue> restore_register(ByteReader& reader) {
  TRY(const auto id, reader.get<std::uint64_t>());
  if (register_family(id) == RegisterFamily::kUnknown) {
    return fail(ErrorKind::kFailed, "register {:#018x} is of no family known here", id);
  }
  const auto size = register_size(id);
  if (size == 0) return fail(ErrorKind::kFailed, "register {:#018x} is of no known size", id);
  if (is_counter(id)) {
    return fail(ErrorKind::kFailed, "register {:#018x} is a counter, which is not a vCPU's own",
                id);
  }
  TRY(const auto bytes, reader.get_bytes(size));
  return RegisterValue{id, {bytes.begin(), bytes.end()}};
}

}  // namespace

const RegisterValue* VcpuState::find(std::uint64_t id) const {
  const auto found = std::ranges::find(registers, id, &RegisterValue::id);
  return found == registers.end() ? nullptr : &*found;
}

void VcpuState::save(ByteWriter& writer) const {
  writer.put(kVersion);
  writer.put(static_cast<std::uint32_t>(registers.size()));
  for (const auto& value : registers) {
    writer.put(value.id);
    writer.put_bytes(value.bytes);
  }
  writer.put(static_cast<std::uint8_t>(power));
  writer.put_bool(serror_pending);
  writer.put_bool(serror_has_syndrome);
  writer.put(serror_syndrome);
}

Result<VcpuState> VcpuState::restore(ByteReader& reader) {
  TRY(const auto version, reader.get<std::uint32_t>());
  if (version != kVersion) {
    return fail(ErrorKind::kFailed, "vCPU state has version {}, {} is understood here", version,
                kVersion);
  }
  TRY(const auto count, reader.get<std::uint32_t>());
  if (count > kMaxRegisters) {
    return fail(ErrorKind::kFailed, "vCPU state has {} registers, {} are allowed", count,
                kMaxRegisters);
  }
  VcpuState state;
  std::unordered_set<std::uint64_t> seen;
  for (std::uint32_t i = 0; i < count; ++i) {
    TRY(auto value, restore_register(reader));
    if (!seen.insert(value.id).second) {
      return fail(ErrorKind::kFailed, "register {:#018x} comes twice", value.id);
    }
    state.registers.push_back(std::move(value));
  }
  TRY(const auto power, reader.get<std::uint8_t>());
  if (power > static_cast<std::uint8_t>(PowerState::kSuspended)) {
    return fail(ErrorKind::kFailed, "vCPU state has power state {}, which is unknown", power);
  }
  state.power = static_cast<PowerState>(power);
  TRY(state.serror_pending, reader.get_bool());
  TRY(state.serror_has_syndrome, reader.get_bool());
  TRY(state.serror_syndrome, reader.get<std::uint64_t>());
  return state;
}

Result<std::uint64_t> as_u64(const RegisterValue& value) {
  std::uint64_t number = 0;
  if (value.bytes.size() > sizeof number) {
    return fail(ErrorKind::kFailed, "register {:#018x} has {} bytes where at most {} are expected",
                value.id, value.bytes.size(), sizeof number);
  }
  std::memcpy(&number, value.bytes.data(), value.bytes.size());
  return number;
}

}  // namespace vmm::kvm
