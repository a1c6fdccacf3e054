#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <unordered_set>

#include "kvm/host_counter.h"
#include "kvm/id_registers.h"
#include "kvm/register_id.h"
#include "kvm/vcpu.h"

namespace vmm::kvm {
namespace {

std::uint64_t zeroing_block() {
  std::uint64_t dczid = 0;
  asm("mrs %0, dczid_el0" : "=r"(dczid));
  // Without DZP: whether DC ZVA is prohibited here, in the host's user space.
  constexpr std::uint64_t kBlockSize = 0xf;
  return dczid & kBlockSize;
}

}  // namespace

Result<CpuIdentity> Vcpu::identity() const {
  CpuIdentity identity;
  identity.counter_hz = host_counter_hz();
  identity.page_size = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
  identity.dczid = zeroing_block();
  TRY(identity.register_ids, register_ids());
  for (const auto id : identity.register_ids) {
    if (id == kSveVectorLengths) {
      TRY(const auto lengths, get_value(id));
      identity.sve_lengths.resize(kSveLengthWords);
      std::memcpy(identity.sve_lengths.data(), lengths.bytes.data(), lengths.bytes.size());
    } else if (is_identity_register(id)) {
      TRY(const auto value, get_value(id));
      TRY(const auto number, as_u64(value));
      identity.registers.push_back({id, number});
    }
  }
  return identity;
}

Result<> Vcpu::apply(const CpuIdentity& source) {
  TRY(const auto host, identity());
  auto differences = compare(source, host);
  std::unordered_set<std::uint64_t> written;
  for (const auto& entry : source.registers) {
    if (std::ranges::find(differences, entry.id, &IdDifference::id) == differences.end()) continue;
    RegisterValue value{entry.id, std::vector<std::byte>(register_size(entry.id))};
    std::memcpy(value.bytes.data(), &entry.value, std::min(sizeof entry.value, value.bytes.size()));
    // A value that KVM takes is one it can give the guest, or one that makes no difference to it
    // (fields that KVM hides).
    if (set_value(value)) written.insert(entry.id);
  }
  std::erase_if(differences, [&](const auto& each) { return written.contains(each.id); });
  if (differences.empty()) return success();
  return fail(ErrorKind::kHost, "this host cannot run the guest's CPU: {}", describe(differences));
}

}  // namespace vmm::kvm
