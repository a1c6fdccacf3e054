#pragma once

#include <sys/uio.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "memory/dirty_bitmap.h"
#include "memory/dirty_tracker.h"
#include "migration/limits.h"

namespace vmm::migration {

// Records of a data channel (docs/migration-protocol.md). Page 0 is the start of the guest's RAM.
enum class RecordType : std::uint32_t {
  kPages = 1,     // the pages' contents follow: pages * kPageSize bytes
  kZero = 2,      // the pages read as zero
  kHole = 3,      // as kZero, and the destination gives their memory back
  kRoundEnd = 4,  // all of a round that goes over this channel has been sent
};
[[nodiscard]] std::string_view to_string(RecordType type);

struct Record {
  RecordType type = RecordType::kRoundEnd;
  PageRange pages;          // none with kRoundEnd
  std::uint32_t round = 0;  // from 1; 0 but with kRoundEnd

  // Bytes that follow the header.
  [[nodiscard]] std::uint64_t payload() const {
    return type == RecordType::kPages ? pages.count * kPageSize : 0;
  }
  [[nodiscard]] bool operator==(const Record&) const = default;
};

// What each begins with, little-endian: type u32, zero u32, first page or round u64, number of
// pages u64.
using RecordHeader = std::array<std::byte, 24>;

[[nodiscard]] RecordHeader encode_record(const Record& record);

// Header that a peer sent, for a guest of guest_pages pages. Error (kMigration) unless the type is
// known, the zero field is zero, and the pages are at least 1, at most kChunkPages with kPages, and
// all in the guest's RAM; a round's end has no pages and a round from 1 to 2^32 - 1.
[[nodiscard]] Result<Record> decode_record(const RecordHeader& header, std::uint64_t guest_pages);

static_assert(DirtyChunk::kPages == kChunkPages);

// Records that go out together, with the chunks they are about.
class RecordBatch {
 public:
  RecordBatch();
  RecordBatch(const RecordBatch&) = delete;
  RecordBatch& operator=(const RecordBatch&) = delete;

  // Whether the records of another chunk may not fit any more, or there is enough to send.
  [[nodiscard]] bool full() const;
  [[nodiscard]] bool empty() const { return records_ == 0; }
  // Adds a record; payload is the pages' memory, of record.payload() bytes. Room for a whole
  // chunk's records is there unless full().
  void add(const Record& record, std::span<const std::byte> payload = {});
  // Notes a chunk whose records were added, or are about to be.
  void add_chunk(const DirtyChunk& chunk) { chunks_.push_back(chunk); }

  [[nodiscard]] std::span<const iovec> parts() const { return parts_; }
  [[nodiscard]] std::span<const DirtyChunk> chunks() const { return chunks_; }
  // Bytes of all records, headers included.
  [[nodiscard]] std::uint64_t bytes() const { return bytes_; }
  void clear();

 private:
  // Two parts each: as many as one system call takes (IOV_MAX).
  static constexpr std::size_t kMaxRecords = 512;

  std::array<RecordHeader, kMaxRecords> headers_;
  std::size_t records_ = 0;
  std::vector<iovec> parts_;
  std::vector<DirtyChunk> chunks_;
  std::uint64_t bytes_ = 0;
};

}  // namespace vmm::migration
