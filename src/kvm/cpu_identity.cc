#include "kvm/cpu_identity.h"

#include <fmt/format.h>

#include <algorithm>
#include <unordered_set>

#include "kvm/id_registers.h"
#include "kvm/register_id.h"

namespace vmm::kvm {
namespace {

constexpr std::uint32_t kVersion = 1;
// Linux 6.12 has about 70 of them, and 420 registers in all.
constexpr std::uint32_t kMaxIdRegisters = 256;
constexpr std::uint32_t kMaxRegisters = 4096;
constexpr std::uint64_t kBytesPerQuadword = 16;  // the unit of SVE's vector lengths

Result<std::uint32_t> get_count(ByteReader& reader, std::uint32_t most, std::string_view what) {
  TRY(const auto count, reader.get<std::uint32_t>());
  if (count > most) {
    return fail(ErrorKind::kFailed, "CPU identity has {} {}, {} are allowed", count, what, most);
  }
  return count;
}

std::string hex(std::uint64_t value) {
  return fmt::format("{:#x}", value);
}

void compare_plain(std::vector<IdDifference>& found, std::string name, std::uint64_t source,
                   std::uint64_t host) {
  if (source == host) return;
  found.push_back({0, std::move(name), std::to_string(source), std::to_string(host)});
}

// Adds each field that differs, and the bits that differ outside of the fields as one more.
void compare_register(std::vector<IdDifference>& found, const IdValue& source, std::uint64_t host) {
  const auto name = register_name(source.id);
  std::uint64_t rest = source.value ^ host;
  for (const auto& field : id_fields(source.id)) {
    const auto mask = (std::uint64_t{1} << field.width) - 1;
    const auto there = source.value >> field.shift & mask;
    const auto here = host >> field.shift & mask;
    rest &= ~(mask << field.shift);
    if (there != here) {
      found.push_back({source.id, fmt::format("{}.{}", name, field.name), hex(there), hex(here)});
    }
  }
  if (rest != 0) found.push_back({source.id, name, hex(source.value), hex(host)});
}

std::string lengths_text(const SveLengths& lengths) {
  std::string text;
  for (std::size_t bit = 0; bit < lengths.size() * 64; ++bit) {
    if ((lengths[bit / 64] >> bit % 64 & 1) == 0) continue;
    text += fmt::format("{}{}", text.empty() ? "" : ",", (bit + 1) * kBytesPerQuadword);
  }
  return text.empty() ? "none" : text;
}

}  // namespace

void CpuIdentity::save(ByteWriter& writer) const {
  writer.put(kVersion);
  writer.put(counter_hz);
  writer.put(page_size);
  writer.put(dczid);
  writer.put(static_cast<std::uint32_t>(registers.size()));
  for (const auto& [id, value] : registers) {
    writer.put(id);
    writer.put(value);
  }
  writer.put_bool(!sve_lengths.empty());
  for (const auto word : sve_lengths) writer.put(word);
  writer.put(static_cast<std::uint32_t>(register_ids.size()));
  for (const auto id : register_ids) writer.put(id);
}

Result<CpuIdentity> CpuIdentity::restore(ByteReader& reader) {
  TRY(const auto version, reader.get<std::uint32_t>());
  if (version != kVersion) {
    return fail(ErrorKind::kFailed, "CPU identity has version {}, {} is understood here", version,
                kVersion);
  }
  CpuIdentity identity;
  TRY(identity.counter_hz, reader.get<std::uint64_t>());
  TRY(identity.page_size, reader.get<std::uint64_t>());
  TRY(identity.dczid, reader.get<std::uint64_t>());
  TRY(const auto count, get_count(reader, kMaxIdRegisters, "ID registers"));
  std::unordered_set<std::uint64_t> seen;
  for (std::uint32_t i = 0; i < count; ++i) {
    IdValue entry;
    TRY(entry.id, reader.get<std::uint64_t>());
    TRY(entry.value, reader.get<std::uint64_t>());
    if (!is_identity_register(entry.id)) {
      return fail(ErrorKind::kFailed, "{} says nothing of a CPU's identity",
                  register_name(entry.id));
    }
    if (!seen.insert(entry.id).second) {
      return fail(ErrorKind::kFailed, "CPU identity has {} twice", register_name(entry.id));
    }
    identity.registers.push_back(entry);
  }
  TRY(const auto has_sve, reader.get_bool());
  for (std::size_t i = 0; has_sve && i < kSveLengthWords; ++i) {
    TRY(const auto word, reader.get<std::uint64_t>());
    identity.sve_lengths.push_back(word);
  }
  TRY(const auto ids, get_count(reader, kMaxRegisters, "registers"));
  for (std::uint32_t i = 0; i < ids; ++i) {
    TRY(const auto id, reader.get<std::uint64_t>());
    identity.register_ids.push_back(id);
  }
  return identity;
}

std::vector<IdDifference> compare(const CpuIdentity& source, const CpuIdentity& host) {
  std::vector<IdDifference> found;
  compare_plain(found, "counter frequency (CNTFRQ_EL0)", source.counter_hz, host.counter_hz);
  compare_plain(found, "page size", source.page_size, host.page_size);
  compare_plain(found, "DCZID_EL0", source.dczid, host.dczid);
  if (source.sve_lengths != host.sve_lengths) {
    found.push_back({0, "SVE vector lengths in bytes", lengths_text(source.sve_lengths),
                     lengths_text(host.sve_lengths)});
  }
  for (const auto& entry : source.registers) {
    const auto here = std::ranges::find(host.registers, entry.id, &IdValue::id);
    // Its absence shows below.
    if (here != host.registers.end()) compare_register(found, entry, here->value);
  }
  const std::unordered_set<std::uint64_t> known(host.register_ids.begin(), host.register_ids.end());
  for (const auto id : source.register_ids) {
    if (!known.contains(id)) found.push_back({0, register_name(id), "present", "absent"});
  }
  return found;
}

std::string describe(const std::vector<IdDifference>& differences) {
  std::string text;
  for (std::size_t i = 0; i < std::min(differences.size(), kMaxDescribed); ++i) {
    const auto& [id, name, source, host] = differences[i];
    text +=
        fmt::format("{}{} is {} at the source and {} here", i == 0 ? "" : "; ", name, source, host);
  }
  if (differences.size() > kMaxDescribed) {
    text += fmt::format("; and {} more", differences.size() - kMaxDescribed);
  }
  return text;
}

}  // namespace vmm::kvm
