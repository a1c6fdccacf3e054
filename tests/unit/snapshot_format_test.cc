#include "migration/snapshot_format.h"

#include <algorithm>
#include <bit>

#include "base/bytes.h"
#include "migration_manifest_support.h"
#include "vmm_support.h"

namespace vmm::migration {
namespace {

SnapshotHeader sample_header() {
  SnapshotHeader header;
  header.pages = 7;
  header.parts = {{{100, 1}, {20, 2}, {3000, 3}, {96, 4}}};
  return header;
}

TEST(SnapshotFormatTest, ChecksumIsTheWellKnownOne) {
  EXPECT_EQ(snapshot_checksum(bytes_of("123456789")), 0xcbf43926U);
}

TEST(SnapshotFormatTest, HeaderRoundTrip) {
  const auto header = sample_header();
  const auto decoded = decode_snapshot_header(encode(header));
  ASSERT_TRUE(decoded) << decoded.error().message();
  EXPECT_EQ(decoded.value(), header);
  EXPECT_EQ(header.offset_of(SnapshotPart::kManifest), 8 * 4096U);
  EXPECT_EQ(header.offset_of(SnapshotPart::kIndex), 8 * 4096U + 3120);
  EXPECT_EQ(header.file_bytes(), 8 * 4096U + 3216);
}

TEST(SnapshotFormatTest, AnyBitOfTheHeaderThatIsNotAsWrittenIsSeen) {
  const auto good = encode(sample_header());
  constexpr std::size_t kUsed = 80;
  for (std::size_t bit = 0; bit < good.size() * 8; ++bit) {
    // All of what is used, and one bit in each byte of the rest.
    if (bit >= kUsed * 8 && bit % 8 != bit / 8 % 8) continue;
    auto bytes = good;
    bytes[bit / 8] ^= static_cast<std::byte>(1 << bit % 8);
    ASSERT_FALSE(decode_snapshot_header(bytes)) << bit;
  }
}

TEST(SnapshotFormatTest, HeaderSaysWhatItsCapsAre) {
  auto header = sample_header();
  header.pages = (kMaxManifestMemory / kPageSize) + 1;
  expect_error(decode_snapshot_header(encode(header)), ErrorKind::kFailed, "268435457 pages");
  for (std::size_t n = 0; n < kSnapshotParts; ++n) {
    header = sample_header();
    const auto part = static_cast<SnapshotPart>(n);
    header.parts[n].bytes = max_bytes(part);
    EXPECT_TRUE(decode_snapshot_header(encode(header)));
    for (const auto bytes : {max_bytes(part) + 1, ~std::uint64_t{0}}) {
      header.parts[n].bytes = bytes;
      expect_error(decode_snapshot_header(encode(header)), ErrorKind::kFailed,
                   fmt::format("{} bytes of {}", bytes, to_string(part)));
    }
  }
}

TEST(SnapshotFormatTest, AnotherVersionIsNamed) {
  auto bytes = encode(sample_header());
  bytes[8] = std::byte{9};
  expect_error(decode_snapshot_header(bytes), ErrorKind::kFailed, "version 9, and 1 is known");
}

std::vector<SnapshotDisk> sample_disks() {
  return {{"root", 1ULL << 30, true, -5}};
}

TEST(SnapshotFormatTest, DisksAreThoseThatTheGuestWritesTo) {
  const auto manifest = full_manifest();
  const auto decoded = decode_snapshot_disks(encode(sample_disks()), manifest);
  ASSERT_TRUE(decoded) << decoded.error().message();
  EXPECT_EQ(decoded.value(), sample_disks());

  auto disks = sample_disks();
  disks[0].id = "data";
  expect_error(decode_snapshot_disks(encode(disks), manifest), ErrorKind::kFailed, "another disk");
  disks = sample_disks();
  disks[0].size = 512;
  expect_error(decode_snapshot_disks(encode(disks), manifest), ErrorKind::kFailed, "another disk");
  disks = sample_disks();
  disks.push_back({"data", 1ULL << 20, true, 0});
  expect_error(decode_snapshot_disks(encode(disks), manifest), ErrorKind::kFailed,
               "2 disks, and the guest writes to 1");
  disks.clear();
  expect_error(decode_snapshot_disks(encode(disks), manifest), ErrorKind::kFailed, "0 disks");
  auto longer = encode(sample_disks());
  longer.push_back({});
  EXPECT_FALSE(decode_snapshot_disks(longer, manifest));
  for (std::size_t size = 0; size + 1 < longer.size(); ++size) {
    EXPECT_FALSE(decode_snapshot_disks(std::span(longer).first(size), manifest)) << size;
  }
}

TEST(SnapshotFormatTest, IndexHasAllOfTheMemory) {
  auto manifest = full_manifest();
  manifest.memory = kManifestMemoryUnit;
  std::vector<SnapshotChunk> index(kManifestMemoryUnit / kSnapshotChunkBytes);
  index[1] = {0x8000000000000001, 77};
  const auto decoded = decode_snapshot_index(encode(index), manifest, 2);
  ASSERT_TRUE(decoded) << decoded.error().message();
  EXPECT_EQ(decoded.value(), index);
  expect_error(decode_snapshot_index(encode(index), manifest, 3), ErrorKind::kFailed,
               "the index has 2 pages, and the file 3");
  index.pop_back();
  expect_error(decode_snapshot_index(encode(index), manifest, 2), ErrorKind::kFailed,
               "84 bytes of index");
}

}  // namespace
}  // namespace vmm::migration
