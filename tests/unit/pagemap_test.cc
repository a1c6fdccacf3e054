#include "memory/pagemap.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <vector>

#include "base/mapping.h"
#include "memory/dirty_bitmap.h"
#include "memory/guest_memory.h"

namespace vmm {
namespace {

std::vector<std::uint64_t> backed(std::span<const std::byte> memory) {
  // What was there before is overwritten.
  std::vector<std::uint64_t> bits(dirty_words(memory.size() / kPageSize), ~std::uint64_t{0});
  const auto pagemap = Pagemap::open();
  EXPECT_TRUE(pagemap && pagemap.value().backed(memory, bits));
  return bits;
}

// The kernel's other answer to the question, for memory that is not swapped out.
std::vector<std::uint64_t> resident(std::span<std::byte> memory) {
  const std::size_t pages = memory.size() / kPageSize;
  std::vector<unsigned char> in_core(pages);
  EXPECT_EQ(::mincore(memory.data(), memory.size(), in_core.data()), 0);
  std::vector<std::uint64_t> bits(dirty_words(pages));
  for (std::size_t page = 0; page < pages; ++page) {
    bits[page / 64] |= static_cast<std::uint64_t>(in_core[page] & 1) << page % 64;
  }
  return bits;
}

class PagemapTest : public ::testing::Test {
 protected:
  // More than one read, and a partial word at the end; small pages.
  static constexpr std::size_t kPages = 4096 + 70;

  PagemapTest() { ::madvise(mapping.data(), mapping.size(), MADV_NOHUGEPAGE); }
  void touch(std::size_t page) { mapping.bytes()[page * kPageSize] = std::byte{1}; }
  bool is_backed(std::size_t page) {
    return (backed(mapping.bytes())[page / 64] >> page % 64 & 1) != 0;
  }

  Mapping mapping = Mapping::anonymous(kPages * kPageSize, kPageSize).value();
};

TEST_F(PagemapTest, FindsNothingInUntouchedMemoryAndTouchesNothing) {
  const std::vector<std::uint64_t> none(dirty_words(kPages));
  EXPECT_EQ(backed(mapping.bytes()), none);
  EXPECT_EQ(resident(mapping.bytes()), none);
}

TEST_F(PagemapTest, FindsJustThePagesThatWereWritten) {
  std::vector<std::uint64_t> expected(dirty_words(kPages));
  for (const std::size_t page : {0ul, 63ul, 64ul, 200ul, 4095ul, 4096ul, kPages - 1}) {
    touch(page);
    expected[page / 64] |= std::uint64_t{1} << page % 64;
  }
  EXPECT_EQ(backed(mapping.bytes()), expected);
}

TEST_F(PagemapTest, ForgetsPagesGivenBack) {
  touch(5);
  touch(6);
  ASSERT_EQ(::madvise(mapping.data() + 5 * kPageSize, kPageSize, MADV_DONTNEED), 0);
  EXPECT_FALSE(is_backed(5));
  EXPECT_TRUE(is_backed(6));
}

TEST_F(PagemapTest, LooksAtAPartOfAMapping) {
  touch(100);
  const auto bits = backed(mapping.bytes().subspan(99 * kPageSize, 3 * kPageSize));
  EXPECT_EQ(bits, std::vector<std::uint64_t>{0b010});
}

// With huge pages, or as small ones where the host has none to give.
TEST_F(PagemapTest, CountsEveryPageOfAHugePage) {
  auto memory = GuestMemory::create(0, 8 << 20, Backing::kAnonymous).value();
  const auto bytes = memory.slice(0, memory.size()).value();
  bytes[(3 << 20) + 5] = std::byte{1};
  const auto bits = backed(bytes);
  EXPECT_EQ(bits, resident(bytes));
  EXPECT_NE(bits[768 / 64], 0u);
  EXPECT_EQ(bits[0], 0u);
}

}  // namespace
}  // namespace vmm
