#include "migration/memory_digest.h"

#include <gtest/gtest.h>

#include <thread>

namespace vmm::migration {
namespace {

constexpr std::uint64_t kBase = 0x4000'0000;

std::string hex_digest(const GuestMemory& memory) {
  DigestControl control;
  const auto pagemap = Pagemap::open();
  const auto digest = memory_digest(memory, pagemap.value(), control);
  EXPECT_EQ(control.done_bytes, memory.size());
  return to_string(digest.value());
}

void fill(GuestMemory& memory, std::uint64_t offset, std::string_view text) {
  ASSERT_TRUE(memory.write(kBase + offset, std::as_bytes(std::span(text))));
}

// The expected values are those of sha256sum on nothing, and on a file of the three pages with an
// address of 8 bytes before each.
TEST(MemoryDigestTest, IsTheSha256OfAllPagesThatAreNotZeroAndTheirAddresses) {
  auto memory = GuestMemory::create(kBase, 1 << 20, Backing::kAnonymous).value();
  EXPECT_EQ(hex_digest(memory), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  fill(memory, 0, "first");
  fill(memory, 0x8'0000, "middle");
  fill(memory, (1 << 20) - 4, "last");
  EXPECT_EQ(hex_digest(memory), "f66c3be350ef3a7960563c6ef5d3cb1e63c5c440b0c5b4f294819812413e707b");
}

TEST(MemoryDigestTest, IsTheSameForHolesAndForZerosAndFillsNoHole) {
  constexpr std::uint64_t kSize = 20 << 20;
  auto holes = GuestMemory::create(kBase, kSize, Backing::kAnonymous).value();
  auto zeros = GuestMemory::create(kBase, kSize, Backing::kAnonymous).value();
  for (std::uint64_t at = 0; at < kSize; at += kPageSize)
    fill(zeros, at, std::string_view("\0", 1));
  for (auto* memory : {&holes, &zeros}) fill(*memory, 9 << 20, "something");
  EXPECT_EQ(hex_digest(holes), hex_digest(zeros));
  std::vector<std::uint64_t> backed(dirty_words(kSize / kPageSize));
  ASSERT_TRUE(Pagemap::open().value().backed(holes.regions()[0].bytes, backed));
  EXPECT_EQ(backed[0], 0u);
}

TEST(MemoryDigestTest, TellsWhereAPageIs) {
  auto one = GuestMemory::create(kBase, 1 << 20, Backing::kAnonymous).value();
  auto other = GuestMemory::create(kBase, 1 << 20, Backing::kAnonymous).value();
  fill(one, 0x3000, "something");
  fill(other, 0x4000, "something");
  EXPECT_NE(hex_digest(one), hex_digest(other));
}

TEST(MemoryDigestTest, StopsWhenAsked) {
  auto memory = GuestMemory::create(kBase, 16 << 20, Backing::kAnonymous).value();
  DigestControl control;
  control.stop = true;
  const auto digest = memory_digest(memory, Pagemap::open().value(), control);
  ASSERT_FALSE(digest);
  EXPECT_EQ(digest.error().kind(), ErrorKind::kInterrupted);
}

}  // namespace
}  // namespace vmm::migration
