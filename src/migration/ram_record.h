#pragma once

#include <sys/uio.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "memory/dirty_tracker.h"
#include "migration/limits.h"

namespace vmm::migration {

// What data channels carry (docs/migration-protocol.md): records in rounds.
enum class RecordType : std::uint32_t {
  kPages = 1,     // the contents of `pages` pages follow, at most kChunkPages
  kZero = 2,      // the pages read as zero
  kHole = 3,      // so they do, and the host may have their memory back
  kRoundEnd = 4,  // first_page is the number of the round; nothing of it follows on this channel
};

// Little-endian.
struct RecordHeader {
  std::uint32_t type;
  std::uint32_t reserved;  // 0
  std::uint64_t first_page;
  std::uint64_t pages;
};
static_assert(sizeof(RecordHeader) == 24);
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
  // Adds a record; payload is the pages' memory, for kPages alone. Room for a whole chunk's records
  // is there unless full().
  void add(RecordType type, PageRange range, std::span<const std::byte> payload = {});
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
