#include "migration/ram_record.h"

#include <bit>
#include <cstdlib>
#include <limits>

namespace vmm::migration {
namespace {

// From here on a larger system call does not cost less per byte.
constexpr std::uint64_t kEnoughBytes = std::uint64_t{1} << 20;

struct Fields {
  std::uint32_t type;
  std::uint32_t zero;
  std::uint64_t first;  // page, or the round
  std::uint64_t count;
};
static_assert(sizeof(Fields) == sizeof(RecordHeader));
static_assert(std::endian::native == std::endian::little);

Result<Record> round_end(std::uint64_t round, std::uint64_t pages) {
  if (round == 0 || round > std::numeric_limits<std::uint32_t>::max() || pages != 0) {
    return fail(ErrorKind::kMigration, "end of round {} with {} pages", round, pages);
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

RecordHeader encode_record(const Record& record) {
  const bool end = record.type == RecordType::kRoundEnd;
  return std::bit_cast<RecordHeader>(
      Fields{.type = static_cast<std::uint32_t>(record.type),
             .zero = 0,
             .first = end ? std::uint64_t{record.round} : record.pages.first,
             .count = end ? 0 : record.pages.count});
}

Result<Record> decode_record(const RecordHeader& header, std::uint64_t guest_pages) {
  const auto [type, zero, first, count] = std::bit_cast<Fields>(header);
  if (zero != 0) return fail(ErrorKind::kMigration, "reserved field is {:#x}", zero);
  const auto record_type = static_cast<RecordType>(type);
  switch (record_type) {
    case RecordType::kRoundEnd:
      return round_end(first, count);
    case RecordType::kPages:
    case RecordType::kZero:
    case RecordType::kHole:
      break;
    default:
      return fail(ErrorKind::kMigration, "no such type: {}", type);
  }
  const std::uint64_t most = record_type == RecordType::kPages ? kChunkPages : guest_pages;
  if (count == 0 || count > most || first >= guest_pages || count > guest_pages - first) {
    return fail(ErrorKind::kMigration,
                "a {} record of {} pages from page {}, allowed are 1 to {} within the guest's {}",
                to_string(record_type), count, first, most, guest_pages);
  }
  return Record{.type = record_type, .pages = {first, count}, .round = 0};
}

RecordBatch::RecordBatch() {
  parts_.reserve(2 * kMaxRecords);
}

bool RecordBatch::full() const {
  return bytes_ >= kEnoughBytes || records_ + kChunkPages > kMaxRecords;
}

void RecordBatch::add(const Record& record, std::span<const std::byte> payload) {
  if (records_ == kMaxRecords || payload.size() != record.payload()) std::abort();
  auto& header = headers_[records_++];
  header = encode_record(record);
  parts_.push_back({.iov_base = header.data(), .iov_len = header.size()});
  bytes_ += header.size() + payload.size();
  if (payload.empty()) return;
  parts_.push_back({.iov_base = const_cast<std::byte*>(payload.data()), .iov_len = payload.size()});
}

void RecordBatch::clear() {
  records_ = 0;
  parts_.clear();
  chunks_.clear();
  bytes_ = 0;
}

}  // namespace vmm::migration
