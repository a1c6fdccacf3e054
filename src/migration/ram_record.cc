#include "migration/ram_record.h"

#include <cstdlib>

namespace vmm::migration {
namespace {

// From here on a larger system call does not cost less per byte.
constexpr std::uint64_t kEnoughBytes = std::uint64_t{1} << 20;

}  // namespace

RecordBatch::RecordBatch() {
  parts_.reserve(2 * kMaxRecords);
}

bool RecordBatch::full() const {
  return bytes_ >= kEnoughBytes || records_ + kChunkPages > kMaxRecords;
}

void RecordBatch::add(RecordType type, PageRange range, std::span<const std::byte> payload) {
  if (records_ == kMaxRecords) std::abort();
  auto& header = headers_[records_++];
  header = {static_cast<std::uint32_t>(type), 0, range.first, range.count};
  parts_.push_back({.iov_base = &header, .iov_len = sizeof header});
  bytes_ += sizeof header + payload.size();
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
