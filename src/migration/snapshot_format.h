#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "memory/dirty_bitmap.h"
#include "migration/limits.h"
#include "migration/manifest.h"

// The bytes of a snapshot file (docs/snapshot-format.md).
namespace vmm::migration {

inline constexpr std::uint32_t kSnapshotVersion = 1;
inline constexpr std::size_t kSnapshotHeaderBytes = 4096;
// Pages with one checksum, which are read together: as many as a word has bits.
inline constexpr std::uint64_t kSnapshotChunkPages = 64;
inline constexpr std::uint64_t kSnapshotChunkBytes = kSnapshotChunkPages * kPageSize;
static_assert(kManifestMemoryUnit % kSnapshotChunkBytes == 0);

// CRC-32 as zlib has it.
[[nodiscard]] std::uint32_t snapshot_checksum(std::span<const std::byte> bytes);

// Parts of the file behind the pages, in this order.
enum class SnapshotPart : std::uint8_t { kManifest, kDisks, kState, kIndex };
inline constexpr std::size_t kSnapshotParts = 4;
[[nodiscard]] std::string_view to_string(SnapshotPart part);
// The longest such part, bytes.
[[nodiscard]] std::uint64_t max_bytes(SnapshotPart part);

struct SnapshotHeader {
  std::uint64_t pages = 0;  // of guest memory that are in the file
  struct Part {
    std::uint64_t bytes = 0;
    std::uint32_t checksum = 0;
    [[nodiscard]] bool operator==(const Part&) const = default;
  };
  std::array<Part, kSnapshotParts> parts{};

  // Where a part begins, and where the file ends.
  [[nodiscard]] std::uint64_t offset_of(SnapshotPart part) const;
  [[nodiscard]] std::uint64_t file_bytes() const;
  [[nodiscard]] bool operator==(const SnapshotHeader&) const = default;
};
[[nodiscard]] std::array<std::byte, kSnapshotHeaderBytes> encode(const SnapshotHeader& header);
// Takes nothing on trust: every size is within its cap, so that nothing that is computed from them
// overflows.
[[nodiscard]] Result<SnapshotHeader> decode_snapshot_header(
    std::span<const std::byte, kSnapshotHeaderBytes> bytes);

// A writable disk's image when the snapshot was made.
struct SnapshotDisk {
  std::string id;
  std::uint64_t size = 0;     // bytes
  bool dated = false;         // a block device has no time of its last change
  std::int64_t mtime_ns = 0;  // since 1970; 0 where there is none
  [[nodiscard]] bool operator==(const SnapshotDisk&) const = default;
};
[[nodiscard]] std::vector<std::byte> encode(std::span<const SnapshotDisk> disks);
// Error unless they are the writable disks of the manifest, in its order.
[[nodiscard]] Result<std::vector<SnapshotDisk>> decode_snapshot_disks(
    std::span<const std::byte> bytes, const Manifest& manifest);

// A chunk of guest memory.
struct SnapshotChunk {
  std::uint64_t pages = 0;     // bit n: page n of it is in the file; it reads as zero else
  std::uint32_t checksum = 0;  // of those pages, one behind the other
  [[nodiscard]] bool operator==(const SnapshotChunk&) const = default;
};
inline constexpr std::size_t kSnapshotIndexEntry = 12;
[[nodiscard]] std::vector<std::byte> encode(std::span<const SnapshotChunk> index);
// Error unless it has a chunk for each of the manifest's memory, and `pages` pages in all.
[[nodiscard]] Result<std::vector<SnapshotChunk>> decode_snapshot_index(
    std::span<const std::byte> bytes, const Manifest& manifest, std::uint64_t pages);

}  // namespace vmm::migration
