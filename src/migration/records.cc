#include "migration/records.h"

#include <algorithm>
#include <limits>

#include "base/bytes.h"
#include "migration/limits.h"

namespace vmm::migration {
namespace {

Result<Record> round_end(std::uint64_t round, std::uint64_t pages) {
  if (round == 0 || round > std::numeric_limits<std::uint32_t>::max() || pages != 0) {
    return fail(ErrorKind::kFailed, "data channel: end of round {} with {} pages", round, pages);
  }
  return Record{
      .type = RecordType::kRoundEnd, .pages = {}, .round = static_cast<std::uint32_t>(round)};
}

}  // namespace

std::string_view to_string(RecordType type) {
  switch (type) {
    case RecordType::kPages:
      return "pages";
    case RecordType::kZero:
      return "zero";
    case RecordType::kHole:
      return "hole";
    case RecordType::kRoundEnd:
      return "round-end";
  }
  return "unknown";
}

std::array<std::byte, kRecordHeaderBytes> encode_record(const Record& record) {
  ByteWriter out;
  out.put(static_cast<std::uint32_t>(record.type));
  out.put(std::uint32_t{0});
  if (record.type == RecordType::kRoundEnd) {
    out.put(std::uint64_t{record.round});
    out.put(std::uint64_t{0});
  } else {
    out.put(record.pages.first);
    out.put(record.pages.count);
  }
  std::array<std::byte, kRecordHeaderBytes> header{};
  std::ranges::copy(out.bytes(), header.begin());
  return header;
}

Result<Record> decode_record(std::span<const std::byte, kRecordHeaderBytes> header,
                             std::uint64_t guest_pages) {
  ByteReader in(header);
  TRY(const auto type, in.get<std::uint32_t>());
  TRY(const auto zero, in.get<std::uint32_t>());
  TRY(const auto first, in.get<std::uint64_t>());
  TRY(const auto count, in.get<std::uint64_t>());
  if (zero != 0) return fail(ErrorKind::kFailed, "data channel: reserved field is {:#x}", zero);
  const auto record_type = static_cast<RecordType>(type);
  switch (record_type) {
    case RecordType::kRoundEnd:
      return round_end(first, count);
    case RecordType::kPages:
    case RecordType::kZero:
    case RecordType::kHole:
      break;
    default:
      return fail(ErrorKind::kFailed, "data channel: unknown record type {}", type);
  }
  const std::uint64_t most = record_type == RecordType::kPages ? kChunkPages : guest_pages;
  if (count == 0 || count > most || first >= guest_pages || count > guest_pages - first) {
    return fail(ErrorKind::kFailed,
                "data channel: a {} record of {} pages from page {}, allowed are 1 to {} within "
                "the guest's {}",
                to_string(record_type), count, first, most, guest_pages);
  }
  return Record{.type = record_type, .pages = {first, count}, .round = 0};
}

}  // namespace vmm::migration
