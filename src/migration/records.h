#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "base/result.h"
#include "memory/dirty_bitmap.h"

namespace vmm::migration {

// Records of a data channel. Each begins with a header of kRecordHeaderBytes, little-endian:
// type u32, zero u32, first page u64, number of pages u64. Page 0 is the start of the guest's RAM.
enum class RecordType : std::uint32_t {
  kPages = 1,     // the pages' contents follow: pages * kPageSize bytes
  kZero = 2,      // the pages read as zero
  kHole = 3,      // as kZero, and the destination gives their memory back
  kRoundEnd = 4,  // all of a round that goes over this channel has been sent
};
inline constexpr std::size_t kRecordHeaderBytes = 24;

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

[[nodiscard]] std::string_view to_string(RecordType type);

[[nodiscard]] std::array<std::byte, kRecordHeaderBytes> encode_record(const Record& record);

// Header that a peer sent, for a guest of guest_pages pages. Error (kFailed) unless the type is
// known, the zero field is zero, and the pages are at least 1, at most kChunkPages with kPages, and
// all in the guest's RAM; a round's end has no pages and a round from 1 to 2^32 - 1.
[[nodiscard]] Result<Record> decode_record(std::span<const std::byte, kRecordHeaderBytes> header,
                                           std::uint64_t guest_pages);

}  // namespace vmm::migration
