#include "memory/guest_memory.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <array>
#include <cstdint>
#include <fstream>
#include <limits>
#include <string>
#include <utility>

#include "madvise_fault.h"

namespace vmm {
namespace {

constexpr std::uint64_t kBase = 0x4000'0000;
constexpr std::uint64_t kMiB = 1 << 20;
constexpr std::uint64_t kSize = 4 * kMiB;
constexpr std::uint64_t kMax = std::numeric_limits<std::uint64_t>::max();

GuestMemory make_memory() {
  return GuestMemory::create(kBase, kSize, Backing::kAnonymous).value();
}

TEST(GuestMemoryTest, IsOneZeroedRegionAtItsAddress) {
  const auto memory = make_memory();
  ASSERT_EQ(memory.regions().size(), 1u);
  EXPECT_EQ(memory.regions()[0].ipa, kBase);
  EXPECT_EQ(memory.regions()[0].bytes.size(), kSize);
  EXPECT_EQ(memory.base_ipa(), kBase);
  EXPECT_EQ(memory.size(), kSize);
  for (const std::byte byte : memory.regions()[0].bytes) ASSERT_EQ(byte, std::byte{0});
}

TEST(GuestMemoryTest, IsAlignedForHugePages) {
  const auto memory = make_memory();
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(memory.regions()[0].bytes.data()) % (2 * kMiB), 0u);
}

// The VmFlags line of /proc/self/smaps for the mapping that starts at `address`.
std::string vm_flags(const void* address) {
  std::ifstream smaps("/proc/self/smaps");
  const std::string start = fmt::format("{:x}-", reinterpret_cast<std::uintptr_t>(address));
  bool inside = false;
  for (std::string line; std::getline(smaps, line);) {
    if (line.starts_with(start)) inside = true;
    if (inside && line.starts_with("VmFlags:")) return line + " ";
  }
  return {};
}

TEST(GuestMemoryTest, IsLeftOutOfCoreDumps) {
  const auto memory = make_memory();
  EXPECT_NE(vm_flags(memory.regions()[0].bytes.data()).find(" dd "), std::string::npos);
}

TEST(GuestMemoryTest, AsksForHugePagesWhereTheKernelHasThem) {
  if (!std::ifstream("/sys/kernel/mm/transparent_hugepage/enabled")) {
    GTEST_SKIP() << "kernel without transparent huge pages";
  }
  const auto memory = make_memory();
  EXPECT_NE(vm_flags(memory.regions()[0].bytes.data()).find(" hg "), std::string::npos);
}

TEST(GuestMemoryTest, RefusesSizesAndAddressesThatCannotBe) {
  struct Case {
    const char* name;
    std::uint64_t base;
    std::uint64_t size;
    Backing backing;
  };
  const Case cases[] = {
      {"no memory", kBase, 0, Backing::kAnonymous},
      {"part of a page", kBase, kMiB + 1, Backing::kAnonymous},
      {"base within a page", kBase + 1, kMiB, Backing::kAnonymous},
      {"beyond the address space", kMax & ~0xffffull, kMiB, Backing::kAnonymous},
      {"all of the address space", 0, kMax & ~0xffffull, Backing::kAnonymous},
      {"end beyond what an IPA can be", kBase, 1ull << 52, Backing::kAnonymous},
      {"part of a huge page", kBase, kMiB, Backing::kHugetlb},
  };
  for (const auto& [name, base, size, backing] : cases) {
    const auto memory = GuestMemory::create(base, size, backing);
    ASSERT_FALSE(memory) << name;
    EXPECT_EQ(memory.error().kind(), ErrorKind::kUsage) << name;
  }
}

TEST(GuestMemoryTest, SaysThatTheHostLacksMemory) {
  const auto memory = GuestMemory::create(kBase, 1ull << 51, Backing::kAnonymous);
  ASSERT_FALSE(memory);
  EXPECT_EQ(memory.error().kind(), ErrorKind::kHost);
  EXPECT_EQ(memory.error().message(),
            "guest memory: cannot map 2251799815782400 bytes of memory: Cannot allocate memory");
}

TEST(GuestMemoryTest, SaysWhatTheHostWouldNotDoWithIt) {
  struct Case {
    int advice;
    int error;
    const char* message;  // none: it is no failure
  };
  const Case cases[] = {
      {MADV_DONTDUMP, ENOMEM,
       "cannot leave guest memory out of core dumps: Cannot allocate memory"},
      {MADV_HUGEPAGE, ENOMEM, "cannot ask for huge pages for guest memory: Cannot allocate memory"},
      {MADV_HUGEPAGE, EINVAL, nullptr},
  };
  for (const auto& [advice, error, message] : cases) {
    const MadviseFault fault(advice, error);
    const auto memory = GuestMemory::create(kBase, kSize, Backing::kAnonymous);
    ASSERT_EQ(memory.has_value(), message == nullptr) << advice;
    if (memory) continue;
    EXPECT_EQ(memory.error().kind(), ErrorKind::kHost) << advice;
    EXPECT_EQ(memory.error().message(), message);
  }
}

TEST(GuestMemoryTest, SaysThatTheHugePagePoolIsTooSmall) {
  const auto memory = GuestMemory::create(kBase, 1ull << 40, Backing::kHugetlb);
  ASSERT_FALSE(memory);
  EXPECT_EQ(memory.error().kind(), ErrorKind::kHost);
  EXPECT_NE(memory.error().message().find("huge page pool"), std::string::npos);
}

TEST(GuestMemoryTest, GivesSlicesWithinRamOnly) {
  struct Case {
    const char* name;
    std::uint64_t ipa;
    std::uint64_t size;
    bool inside;
  };
  const Case cases[] = {
      {"all", kBase, kSize, true},
      {"first byte", kBase, 1, true},
      {"last byte", kBase + kSize - 1, 1, true},
      {"nothing at the start", kBase, 0, true},
      {"nothing at the end", kBase + kSize, 0, true},
      {"nothing beyond the end", kBase + kSize + 1, 0, false},
      {"nothing below the start", kBase - 1, 0, false},
      {"byte at the end", kBase + kSize, 1, false},
      {"byte below the start", kBase - 1, 1, false},
      {"across the start", kBase - 1, 2, false},
      {"across the end", kBase + kSize - 1, 2, false},
      {"one more than all", kBase, kSize + 1, false},
      {"end overflows to inside", kBase, kMax, false},
      {"end overflows to the start", kBase + 1, kMax - kBase, false},
      {"end is the top of the address space", kMax, 1, false},
      {"end overflows from the top", kMax, kBase + 2, false},
      {"address zero", 0, 1, false},
      {"everything", 0, kMax, false},
  };
  const auto memory = make_memory();
  for (const auto& [name, ipa, size, inside] : cases) {
    const auto slice = memory.slice(ipa, size);
    ASSERT_EQ(slice.has_value(), inside) << name;
    if (!inside) continue;
    EXPECT_EQ(slice.value().size(), size) << name;
    EXPECT_EQ(slice.value().data(), memory.regions()[0].bytes.data() + (ipa - kBase)) << name;
  }
}

TEST(GuestMemoryTest, ReadsBackWhatWasWritten) {
  auto memory = make_memory();
  const std::array in = {std::byte{1}, std::byte{2}, std::byte{3}};
  std::array<std::byte, 3> out{};
  ASSERT_TRUE(memory.write(kBase + kSize - 3, in));
  ASSERT_TRUE(memory.read(kBase + kSize - 3, out));
  EXPECT_EQ(out, in);
}

TEST(GuestMemoryTest, RefusesAccessBeyondRamAndChangesNothing) {
  auto memory = make_memory();
  const std::array in = {std::byte{1}, std::byte{2}};
  std::array out = {std::byte{9}, std::byte{9}};
  const auto written = memory.write(kBase + kSize - 1, in);
  ASSERT_FALSE(written);
  EXPECT_EQ(written.error().message(),
            "2 bytes at guest address 0x403fffff are not within RAM (4194304 bytes at 0x40000000)");
  EXPECT_EQ(memory.regions()[0].bytes.back(), std::byte{0});
  EXPECT_EQ(memory.device_dirty().count(), 0u);
  EXPECT_FALSE(memory.read(kBase + kSize - 1, out));
  EXPECT_EQ(out[0], std::byte{9});
}

TEST(GuestMemoryTest, MarksExactlyThePagesWritten) {
  struct Case {
    const char* name;
    std::uint64_t offset;
    std::size_t size;
    PageRange expected;
  };
  const Case cases[] = {
      {"first byte", 0, 1, {0, 1}},
      {"last byte", kSize - 1, 1, {kSize / kPageSize - 1, 1}},
      {"a whole page", kPageSize, kPageSize, {1, 1}},
      {"two bytes across a border", kPageSize - 1, 2, {0, 2}},
      {"a page and a byte", kPageSize, kPageSize + 1, {1, 2}},
      {"the byte before a page and the page", kPageSize - 1, kPageSize + 1, {0, 2}},
      {"a word's worth of pages and more", 63 * kPageSize, 66 * kPageSize, {63, 66}},
  };
  const std::vector<std::byte> data(kMiB);
  for (const auto& [name, offset, size, expected] : cases) {
    auto memory = make_memory();
    ASSERT_TRUE(memory.write(kBase + offset, std::span(data).first(size))) << name;
    DirtyBitmap& bitmap = memory.device_dirty();
    std::vector<std::uint64_t> words(bitmap.words());
    EXPECT_EQ(bitmap.count(), expected.count) << name;
    bitmap.harvest(words);
    EXPECT_EQ(next_dirty_range(words, bitmap.pages(), 0), expected) << name;
  }
}

TEST(GuestMemoryTest, WritingNothingMarksNothing) {
  auto memory = make_memory();
  EXPECT_TRUE(memory.write(kBase, {}));
  EXPECT_TRUE(memory.write(kBase + kSize, {}));
  memory.mark_dirty(kBase, 0);
  memory.mark_dirty(kBase + kSize, 0);
  EXPECT_EQ(memory.device_dirty().count(), 0u);
}

TEST(GuestMemoryTest, ReadingMarksNothing) {
  auto memory = make_memory();
  std::byte out[16];
  ASSERT_TRUE(memory.read(kBase, out));
  EXPECT_EQ(memory.device_dirty().count(), 0u);
}

TEST(GuestMemoryTest, KeepsContentsWhenMoved) {
  auto memory = make_memory();
  const std::byte in[] = {std::byte{7}};
  ASSERT_TRUE(memory.write(kBase, in));
  const GuestMemory moved = std::move(memory);
  std::byte out[1]{};
  ASSERT_TRUE(moved.read(kBase, out));
  EXPECT_EQ(out[0], std::byte{7});
}

TEST(GuestMemoryDeathTest, AbortsWhenPagesOutsideOfRamAreMarked) {
  auto memory = make_memory();
  EXPECT_DEATH(memory.mark_dirty(kBase - 1, 1), "");
  EXPECT_DEATH(memory.mark_dirty(kBase + kSize, 1), "");
  EXPECT_DEATH(memory.mark_dirty(kBase, kMax), "");
}

}  // namespace
}  // namespace vmm
