#include "migration/snapshot_format.h"

#include <zlib.h>

#include <algorithm>
#include <bit>

#include "base/bytes.h"

namespace vmm::migration {
namespace {

constexpr std::string_view kMagic = "VMMSNAP1";
constexpr std::size_t kHeaderChecked = kSnapshotHeaderBytes - sizeof(std::uint32_t);
constexpr std::uint64_t kMaxPages = kMaxManifestMemory / kPageSize;
constexpr std::uint64_t kMaxChunks = kMaxManifestMemory / kSnapshotChunkBytes;

}  // namespace

std::uint32_t snapshot_checksum(std::span<const std::byte> bytes) {
  return static_cast<std::uint32_t>(
      ::crc32_z(0, reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size()));
}

std::string_view to_string(SnapshotPart part) {
  constexpr std::array<std::string_view, kSnapshotParts> kNames{"manifest", "disks",
                                                                "machine state", "index"};
  return kNames[static_cast<std::size_t>(part)];
}

std::uint64_t max_bytes(SnapshotPart part) {
  constexpr std::uint64_t kMaxDisks = 4096;
  constexpr std::array<std::uint64_t, kSnapshotParts> kMax{
      kMaxManifest, kMaxDisks, kMaxMachineState, kMaxChunks * kSnapshotIndexEntry};
  return kMax[static_cast<std::size_t>(part)];
}

std::uint64_t SnapshotHeader::offset_of(SnapshotPart part) const {
  std::uint64_t offset = kSnapshotHeaderBytes + pages * kPageSize;
  for (std::size_t n = 0; n < static_cast<std::size_t>(part); ++n) offset += parts[n].bytes;
  return offset;
}

std::uint64_t SnapshotHeader::file_bytes() const {
  return offset_of(SnapshotPart::kIndex) +
         parts[static_cast<std::size_t>(SnapshotPart::kIndex)].bytes;
}

std::array<std::byte, kSnapshotHeaderBytes> encode(const SnapshotHeader& header) {
  ByteWriter out;
  out.put_bytes(std::as_bytes(std::span(kMagic)));
  out.put(kSnapshotVersion);
  out.put(header.pages);
  for (const auto& part : header.parts) {
    out.put(part.bytes);
    out.put(part.checksum);
  }
  std::array<std::byte, kSnapshotHeaderBytes> bytes{};
  std::ranges::copy(out.bytes(), bytes.begin());
  ByteWriter checksum;
  checksum.put(snapshot_checksum(std::span(bytes).first<kHeaderChecked>()));
  std::ranges::copy(checksum.bytes(), bytes.begin() + kHeaderChecked);
  return bytes;
}

Result<SnapshotHeader> decode_snapshot_header(
    std::span<const std::byte, kSnapshotHeaderBytes> bytes) {
  ByteReader in(bytes);
  TRY(const auto magic, in.get_bytes(kMagic.size()));
  if (!std::ranges::equal(magic, std::as_bytes(std::span(kMagic)))) {
    return fail(ErrorKind::kFailed, "this is no snapshot: another magic at offset 0");
  }
  TRY(const auto version, in.get<std::uint32_t>());
  if (version != kSnapshotVersion) {
    return fail(ErrorKind::kFailed, "the snapshot has version {}, and {} is known here", version,
                kSnapshotVersion);
  }
  SnapshotHeader header;
  TRY(header.pages, in.get<std::uint64_t>());
  for (auto& part : header.parts) {
    TRY(part.bytes, in.get<std::uint64_t>());
    TRY(part.checksum, in.get<std::uint32_t>());
  }
  // What is not used is zero, so that there is one way to say a thing.
  const auto expected = encode(header);
  if (!std::ranges::equal(bytes, expected)) {
    return fail(ErrorKind::kFailed, "the header at offset 0 is damaged");
  }
  if (header.pages > kMaxPages) {
    return fail(ErrorKind::kFailed, "the header says {} pages, at most {} are allowed",
                header.pages, kMaxPages);
  }
  for (std::size_t n = 0; n < kSnapshotParts; ++n) {
    const auto part = static_cast<SnapshotPart>(n);
    if (header.parts[n].bytes > max_bytes(part)) {
      return fail(ErrorKind::kFailed, "the header says {} bytes of {}, at most {} are allowed",
                  header.parts[n].bytes, to_string(part), max_bytes(part));
    }
  }
  return header;
}

std::vector<std::byte> encode(std::span<const SnapshotDisk> disks) {
  ByteWriter out;
  out.put(static_cast<std::uint32_t>(disks.size()));
  for (const auto& disk : disks) {
    out.put_string(disk.id);
    out.put(disk.size);
    out.put_bool(disk.dated);
    out.put(disk.mtime_ns);
  }
  return out.take();
}

Result<std::vector<SnapshotDisk>> decode_snapshot_disks(std::span<const std::byte> bytes,
                                                        const Manifest& manifest) {
  ByteReader in(bytes);
  TRY(const auto count, in.get<std::uint32_t>());
  const auto writable = std::ranges::count(manifest.disks, false, &Manifest::Disk::read_only);
  if (count != static_cast<std::uint64_t>(writable)) {
    return fail(ErrorKind::kFailed, "{} disks, and the guest writes to {}", count, writable);
  }
  std::vector<SnapshotDisk> disks;
  for (const auto& described : manifest.disks) {
    if (described.read_only) continue;
    SnapshotDisk disk;
    TRY(disk.id, in.get_string(kMaxManifestName));
    TRY(disk.size, in.get<std::uint64_t>());
    TRY(disk.dated, in.get_bool());
    TRY(disk.mtime_ns, in.get<std::int64_t>());
    if (disk.id != described.id || disk.size != described.size) {
      return fail(ErrorKind::kFailed, "another disk than the manifest's {}", described.id);
    }
    disks.push_back(std::move(disk));
  }
  TRY(in.expect_end());
  return disks;
}

std::vector<std::byte> encode(std::span<const SnapshotChunk> index) {
  ByteWriter out;
  for (const auto& chunk : index) {
    out.put(chunk.pages);
    out.put(chunk.checksum);
  }
  return out.take();
}

Result<std::vector<SnapshotChunk>> decode_snapshot_index(std::span<const std::byte> bytes,
                                                         const Manifest& manifest,
                                                         std::uint64_t pages) {
  const std::uint64_t chunks = manifest.memory / kSnapshotChunkBytes;
  if (bytes.size() != chunks * kSnapshotIndexEntry) {
    return fail(ErrorKind::kFailed, "{} bytes of index for {} bytes of memory", bytes.size(),
                manifest.memory);
  }
  ByteReader in(bytes);
  std::vector<SnapshotChunk> index(chunks);
  std::uint64_t found = 0;
  for (auto& chunk : index) {
    TRY(chunk.pages, in.get<std::uint64_t>());
    TRY(chunk.checksum, in.get<std::uint32_t>());
    found += static_cast<std::uint64_t>(std::popcount(chunk.pages));
  }
  if (found != pages) {
    return fail(ErrorKind::kFailed, "the index has {} pages, and the file {}", found, pages);
  }
  return index;
}

}  // namespace vmm::migration
