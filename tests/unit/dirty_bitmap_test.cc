#include "memory/dirty_bitmap.h"

#include <gtest/gtest.h>

#include <csignal>
#include <random>
#include <thread>
#include <vector>

namespace vmm {
namespace {

constexpr std::uint64_t kAll = ~std::uint64_t{0};

std::vector<PageRange> ranges(const std::vector<std::uint64_t>& words, std::uint64_t pages) {
  std::vector<PageRange> found;
  for_each_dirty_range(words, pages, [&](PageRange range) { found.push_back(range); });
  return found;
}

std::vector<std::uint64_t> harvested(DirtyBitmap& bitmap) {
  std::vector<std::uint64_t> words(bitmap.words());
  bitmap.harvest(words);
  return words;
}

TEST(DirtyBitmapTest, HasOneWordPer64PagesRoundedUp) {
  EXPECT_EQ(dirty_words(0), 0u);
  EXPECT_EQ(dirty_words(1), 1u);
  EXPECT_EQ(dirty_words(64), 1u);
  EXPECT_EQ(dirty_words(65), 2u);
  EXPECT_EQ(dirty_words(kAll), kAll / 64 + 1);
}

TEST(DirtyBitmapTest, FindsRunsOfSetBits) {
  struct Case {
    const char* name;
    std::vector<std::uint64_t> words;
    std::uint64_t pages;
    std::vector<PageRange> expected;
  };
  const Case cases[] = {
      {"no pages", {}, 0, {}},
      {"nothing set", {0, 0}, 128, {}},
      {"first bit", {1, 0}, 128, {{0, 1}}},
      {"last bit of a word", {1ull << 63, 0}, 128, {{63, 1}}},
      {"last bit of all", {0, 1ull << 63}, 128, {{127, 1}}},
      {"a whole word", {0, kAll, 0}, 192, {{64, 64}}},
      {"across a word border", {1ull << 63, 1}, 128, {{63, 2}}},
      {"both sides of a gap at a border", {1ull << 63, 2}, 128, {{63, 1}, {65, 1}}},
      {"through several words", {0xf000000000000000, kAll, 0xf}, 192, {{60, 72}}},
      {"everything", {kAll, kAll}, 128, {{0, 128}}},
      {"several in a word", {0b1011'0110, 0}, 128, {{1, 2}, {4, 2}, {7, 1}}},
      {"tail bits beyond the end are not looked at", {kAll, kAll}, 70, {{0, 70}}},
      {"only tail bits are set", {0, kAll << 6}, 70, {}},
      {"a run that starts inside the tail word", {0, kAll << 4}, 70, {{68, 2}}},
      {"words behind the end", {1, kAll}, 64, {{0, 1}}},
  };
  for (const auto& [name, words, pages, expected] : cases) {
    EXPECT_EQ(ranges(words, pages), expected) << name;
  }
}

TEST(DirtyBitmapTest, StartsRunAtThePageAskedFor) {
  const std::vector<std::uint64_t> words = {kAll, 0xff};
  EXPECT_EQ(next_dirty_range(words, 128, 63), (PageRange{63, 9}));
  EXPECT_EQ(next_dirty_range(words, 128, 71), (PageRange{71, 1}));
  EXPECT_EQ(next_dirty_range(words, 128, 72), std::nullopt);
  EXPECT_EQ(next_dirty_range(words, 128, 128), std::nullopt);
  EXPECT_EQ(next_dirty_range(words, 128, kAll), std::nullopt);
}

TEST(DirtyBitmapTest, FindsTheSameRunsAsALookAtEachBit) {
  std::mt19937_64 random(1);
  for (int round = 0; round < 500; ++round) {
    const std::uint64_t pages = 1 + random() % 400;
    std::vector<std::uint64_t> words(dirty_words(pages));
    for (auto& word : words) {
      word = random();
      if (random() % 3 == 0) word = kAll;
      if (random() % 3 == 0) word = 0;
    }
    std::vector<PageRange> expected;
    for (std::uint64_t page = 0; page < pages; ++page) {
      if ((words[page / 64] >> page % 64 & 1) == 0) continue;
      const bool follows =
          !expected.empty() && expected.back().first + expected.back().count == page;
      if (follows) {
        ++expected.back().count;
      } else {
        expected.push_back({page, 1});
      }
    }
    ASSERT_EQ(ranges(words, pages), expected) << "round " << round;
  }
}

TEST(DirtyBitmapTest, SetsExactlyTheRange) {
  constexpr std::uint64_t kPages = 200;
  for (const std::uint64_t first : {0, 1, 62, 63, 64, 65, 127, 128, 191, 199, 200}) {
    for (std::uint64_t count = 0; count <= kPages - first; ++count) {
      DirtyBitmap bitmap(kPages);
      bitmap.set_range({first, count});
      ASSERT_EQ(bitmap.count(), count);
      const auto expected =
          count == 0 ? std::vector<PageRange>{} : std::vector<PageRange>{{first, count}};
      ASSERT_EQ(ranges(harvested(bitmap), kPages), expected);
    }
  }
}

TEST(DirtyBitmapTest, TestsSinglePages) {
  DirtyBitmap bitmap(130);
  bitmap.set(64);
  bitmap.set(129);
  EXPECT_FALSE(bitmap.test(63));
  EXPECT_TRUE(bitmap.test(64));
  EXPECT_FALSE(bitmap.test(65));
  EXPECT_TRUE(bitmap.test(129));
}

TEST(DirtyBitmapTest, HarvestAddsToWhatIsThereAndLeavesNothing) {
  DirtyBitmap bitmap(128);
  bitmap.set(1);
  bitmap.set(64);
  std::vector<std::uint64_t> words = {1, 0};
  bitmap.harvest(words);
  EXPECT_EQ(words, (std::vector<std::uint64_t>{3, 1}));
  EXPECT_EQ(bitmap.count(), 0u);
  EXPECT_EQ(harvested(bitmap), (std::vector<std::uint64_t>{0, 0}));
}

TEST(DirtyBitmapTest, ExchangesOneWord) {
  DirtyBitmap bitmap(128);
  bitmap.set(3);
  bitmap.set(70);
  EXPECT_EQ(bitmap.exchange_word(0), 8u);
  EXPECT_EQ(bitmap.exchange_word(0), 0u);
  EXPECT_EQ(bitmap.count(), 1u);
}

TEST(DirtyBitmapTest, MergeAddsBitsAndDropsThoseBeyondTheEnd) {
  DirtyBitmap bitmap(70);
  bitmap.set(0);
  bitmap.merge(std::vector<std::uint64_t>{2, kAll});
  EXPECT_EQ(harvested(bitmap), (std::vector<std::uint64_t>{3, 0x3f}));
  bitmap.or_word(1, kAll << 6);
  EXPECT_EQ(bitmap.count(), 0u);
}

TEST(DirtyBitmapTest, ClearLeavesNothing) {
  DirtyBitmap bitmap(100);
  bitmap.set_range({0, 100});
  bitmap.clear();
  EXPECT_EQ(bitmap.count(), 0u);
}

TEST(DirtyBitmapDeathTest, AbortsOnPagesBeyondTheEnd) {
  DirtyBitmap bitmap(64);
  EXPECT_EXIT(bitmap.set(64), ::testing::KilledBySignal(SIGABRT), "");
  EXPECT_EXIT(bitmap.set_range({0, 65}), ::testing::KilledBySignal(SIGABRT), "");
  EXPECT_EXIT(bitmap.set_range({kAll, 2}), ::testing::KilledBySignal(SIGABRT), "");
  EXPECT_EXIT(bitmap.or_word(1, 1), ::testing::KilledBySignal(SIGABRT), "");
  EXPECT_EXIT(bitmap.merge(std::vector<std::uint64_t>(2)), ::testing::KilledBySignal(SIGABRT), "");
  std::vector<std::uint64_t> too_many(2);
  EXPECT_EXIT(bitmap.harvest(too_many), ::testing::KilledBySignal(SIGABRT), "");
  EXPECT_EXIT(static_cast<void>(bitmap.test(64)), ::testing::KilledBySignal(SIGABRT), "");
  EXPECT_EXIT(static_cast<void>(bitmap.exchange_word(1)), ::testing::KilledBySignal(SIGABRT), "");
}

// Writers store a value and set the page's bit; a harvester that finds the bit must find the value
// (plain memory, so that a missing order shows under ThreadSanitizer), and no bit may get lost.
TEST(DirtyBitmapTest, LosesNoBitAndNoWriteBetweenThreads) {
  constexpr std::uint64_t kPages = 256;
  constexpr unsigned kWriters = 3;
  DirtyBitmap bitmap(kPages);
  std::vector<std::uint64_t> memory(kPages);
  std::vector<unsigned> seen(kPages);
  std::vector<std::thread> writers;
  for (unsigned writer = 0; writer < kWriters; ++writer) {
    writers.emplace_back([&, writer] {
      // Neighbouring pages belong to different writers, so that they meet in each word.
      for (std::uint64_t page = writer; page < kPages; page += kWriters) {
        memory[page] = page + 1;
        bitmap.set(page);
      }
    });
  }
  std::uint64_t found = 0;
  while (found < kPages) {
    for_each_dirty_range(harvested(bitmap), kPages, [&](PageRange range) {
      for (std::uint64_t page = range.first; page < range.first + range.count; ++page) {
        EXPECT_EQ(memory[page], page + 1);
        ++seen[page];
        ++found;
      }
    });
  }
  for (auto& writer : writers) writer.join();
  EXPECT_EQ(seen, std::vector<unsigned>(kPages, 1));
  EXPECT_EQ(bitmap.count(), 0u);
}

}  // namespace
}  // namespace vmm
