// What is saved to a snapshot and read from it again.
#include <sys/stat.h>

#include <bit>
#include <set>

#include "snapshot_rig.h"

namespace vmm::migration {
namespace {

using ::testing::HasSubstr;

TEST(SnapshotTest, WhatIsSavedIsReadAgain) {
  SnapshotRig rig;
  rig.save();
  const auto reader = rig.open();
  ASSERT_TRUE(reader) << reader.error().message();
  EXPECT_EQ(reader.value().manifest(), rig.contents.manifest);
  EXPECT_TRUE(std::ranges::equal(reader.value().disks(), rig.contents.disks));
  EXPECT_TRUE(std::ranges::equal(reader.value().state(), rig.contents.state));
  auto memory = snapshot_memory(rig.memory.size());
  const auto loaded = load_snapshot(reader.value(), memory);
  ASSERT_TRUE(loaded) << loaded.error().message();
  EXPECT_TRUE(std::ranges::equal(ram_of(memory), ram_of(rig.memory)));
}

TEST(SnapshotTest, PagesThatAreZeroTakeNoRoomInTheFileNorInMemory) {
  SnapshotRig rig;
  rig.save();
  constexpr std::uint64_t kStored = (1024 + 2) / 3;
  EXPECT_EQ(rig.open().value().pages(), kStored);
  EXPECT_LT(std::filesystem::file_size(rig.path), (kStored + 1) * kPageSize + 8192);
  EXPECT_EQ(rig.progress.done_bytes, rig.memory.size());
  auto memory = snapshot_memory(rig.memory.size());
  ASSERT_TRUE(load_snapshot(rig.open().value(), memory));
  std::vector<std::uint64_t> backed(dirty_words(1024));
  ASSERT_TRUE(Pagemap::open().value().backed(ram_of(memory), backed));
  std::uint64_t pages = 0;
  for (const auto word : backed) pages += static_cast<std::uint64_t>(std::popcount(word));
  EXPECT_EQ(pages, kStored);
}

TEST(SnapshotTest, AnEmptyGuestIsAFileWithoutPages) {
  SnapshotRig rig(2 << 20, 1'000'000);
  ram_of(rig.memory)[0] = std::byte{0};
  std::ranges::fill(ram_of(rig.memory).first(kPageSize), std::byte{0});
  rig.save();
  EXPECT_EQ(rig.open().value().pages(), 0U);
  auto memory = snapshot_memory(rig.memory.size());
  EXPECT_TRUE(load_snapshot(rig.open().value(), memory));
}

TEST(SnapshotTest, OneThatIsStoppedIsNone) {
  SnapshotRig rig;
  rig.progress.stop = true;
  SnapshotCalls calls;
  expect_error(rig.save(calls), ErrorKind::kInterrupted, "cancelled");
  EXPECT_TRUE(rig.files().empty());
}

TEST(SnapshotTest, WhatNobodyWouldReadIsNotWritten) {
  SnapshotRig rig;
  SnapshotCalls calls;
  rig.contents.state.resize(kMaxMachineState + 1);
  expect_error(rig.save(calls), ErrorKind::kFailed, "a machine state of 16777217 bytes");
  rig.contents.state.clear();
  rig.contents.manifest.guest = "/";
  EXPECT_FALSE(rig.save(calls));
}

// Where the parts of a rig's file begin, and where it ends.
std::vector<std::uint64_t> boundaries(const SnapshotRig& rig) {
  SnapshotHeader header;
  const auto bytes = contents_of(rig.path);
  header =
      decode_snapshot_header(std::as_bytes(std::span(bytes)).first<kSnapshotHeaderBytes>()).value();
  std::vector<std::uint64_t> offsets{
      0, 8, 12, 20, kSnapshotHeaderBytes, kSnapshotHeaderBytes + kPageSize};
  for (std::size_t n = 0; n < kSnapshotParts; ++n) {
    offsets.push_back(header.offset_of(static_cast<SnapshotPart>(n)));
  }
  offsets.push_back(header.file_bytes());
  return offsets;
}

TEST(SnapshotTest, AFileThatIsCutOffAnywhereIsSeenToBe) {
  SnapshotRig rig;
  rig.save();
  const auto whole = contents_of(rig.path);
  std::set<std::uint64_t> sizes;
  for (const auto offset : boundaries(rig)) {
    for (const auto size : {offset - 1, offset, offset + 1}) {
      if (size < whole.size()) sizes.insert(size);
    }
  }
  for (const auto size : sizes) {
    rig.dir.file("snap", whole.substr(0, size));
    const auto reader = rig.open();
    expect_error(reader, ErrorKind::kFailed, fmt::format("ends at offset {}", size));
    expect_error(reader, ErrorKind::kFailed, rig.path.string());
  }
  rig.dir.file("snap", whole + "x");
  expect_error(rig.open(), ErrorKind::kFailed, fmt::format("and not at {}", whole.size()));
}

// The part that begins at `from` is damaged at its beginning, in the middle and at its end.
void expect_damage_seen(SnapshotRig& rig, std::uint64_t from, std::uint64_t end,
                        const std::string& words) {
  for (const auto at : {from, (from + end) / 2, end - 1}) {
    rig.flip(at);
    expect_error(rig.open(), ErrorKind::kFailed, words);
    rig.flip(at);
  }
}

TEST(SnapshotTest, ABitThatIsNotAsWrittenIsSeenAndItsPlaceNamed) {
  SnapshotRig rig;
  rig.save();
  const auto offsets = boundaries(rig);
  expect_damage_seen(rig, 0, 8, "magic at offset 0");
  expect_damage_seen(rig, 8, 12, "version");
  expect_damage_seen(rig, 12, kSnapshotHeaderBytes, "header at offset 0 is damaged");
  for (std::size_t n = 0; n < kSnapshotParts; ++n) {
    const auto from = offsets[6 + n];
    expect_damage_seen(
        rig, from, offsets[7 + n],
        fmt::format("{} at offset {} is damaged", to_string(static_cast<SnapshotPart>(n)), from));
  }
}

TEST(SnapshotTest, DamagedMemoryIsSeenBeforeItIsUsed) {
  SnapshotRig rig;
  rig.save();
  // 22 pages of the first chunk are in the file, 21 of the next.
  for (const auto& [page, start] :
       std::vector<std::pair<std::uint64_t, std::uint64_t>>{{0, 0}, {21, 0}, {22, 22}, {42, 22}}) {
    const auto offset = kSnapshotHeaderBytes + page * kPageSize + 100;
    rig.flip(offset);
    auto memory = snapshot_memory(rig.memory.size());
    const auto loaded = load_snapshot(rig.open().value(), memory);
    expect_error(loaded, ErrorKind::kFailed,
                 fmt::format("snap: guest memory at offset {} is damaged",
                             kSnapshotHeaderBytes + start * kPageSize));
    const auto chunk = ram_of(memory).subspan(start == 0 ? 0 : kSnapshotChunkBytes);
    EXPECT_EQ(chunk[0], std::byte{0}) << "nothing of it is in memory";
    rig.flip(offset);
  }
}

TEST(SnapshotTest, AFileThatShrinksWhileItIsReadIsAnError) {
  SnapshotRig rig;
  rig.save();
  const auto reader = rig.open();
  std::filesystem::resize_file(rig.path, kSnapshotHeaderBytes);
  auto memory = snapshot_memory(rig.memory.size());
  expect_error(load_snapshot(reader.value(), memory), ErrorKind::kFailed,
               "ends at offset 4096 while it is read");
}

TEST(SnapshotTest, MemoryOfAnotherSizeIsRefused) {
  SnapshotRig rig;
  rig.save();
  auto memory = snapshot_memory(2 << 20);
  expect_error(load_snapshot(rig.open().value(), memory), ErrorKind::kFailed,
               "4194304 bytes of memory, and the machine has 2097152");
}

TEST(SnapshotTest, WhatIsNoFileIsNotRead) {
  const TempDir dir;
  expect_error(SnapshotReader::open(dir / "none"), ErrorKind::kUsage, (dir / "none").string());
  expect_error(SnapshotReader::open(dir.path()), ErrorKind::kUsage, "no regular file");
  ASSERT_EQ(::mkfifo((dir / "pipe").c_str(), 0600), 0);
  expect_error(SnapshotReader::open(dir / "pipe"), ErrorKind::kUsage, "no regular file");
}

}  // namespace
}  // namespace vmm::migration
