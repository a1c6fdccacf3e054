#include "memory/dirty_tracker.h"

#include <gtest/gtest.h>

#include <random>
#include <set>
#include <thread>
#include <vector>

#include "fake_dirty_log.h"

namespace vmm {
namespace {

constexpr std::uint64_t kBase = 0x4000'0000;
// Two chunks and a short one, whose last word is partial.
constexpr std::uint64_t kPages = 2 * DirtyChunk::kPages + 70;

std::vector<std::uint64_t> pages_of(const DirtyChunk& chunk) {
  std::vector<std::uint64_t> pages;
  for_each_dirty_range(chunk.bits, DirtyChunk::kPages, [&](PageRange range) {
    for (std::uint64_t i = 0; i < range.count; ++i) pages.push_back(chunk.first + range.first + i);
  });
  return pages;
}

class DirtyTrackerTest : public ::testing::Test {
 protected:
  // Everything this pass has left to give.
  std::vector<std::uint64_t> take_all() {
    std::vector<std::uint64_t> all;
    while (const auto chunk = tracker.take().value()) {
      const auto pages = pages_of(*chunk);
      all.insert(all.end(), pages.begin(), pages.end());
    }
    return all;
  }
  void start_and_take_all() {
    ASSERT_TRUE(tracker.start(DirtyLogMode::kWriteProtect));
    ASSERT_EQ(take_all().size(), kPages);
  }

  GuestMemory memory = GuestMemory::create(kBase, kPages* kPageSize, Backing::kAnonymous).value();
  FakeDirtyLog log{kPages};
  DirtyTracker tracker{log, memory};
};

using Pages = std::vector<std::uint64_t>;

TEST_F(DirtyTrackerTest, StartsWithEveryPageOnceAndWithoutAskingTheLog) {
  memory.device_dirty().set(3);
  ASSERT_TRUE(tracker.start(DirtyLogMode::kHardware));
  EXPECT_EQ(log.mode(), DirtyLogMode::kHardware);
  EXPECT_EQ(tracker.remaining(), kPages);
  Pages all(kPages);
  for (std::uint64_t page = 0; page < kPages; ++page) all[page] = page;
  EXPECT_EQ(take_all(), all);
  EXPECT_EQ(log.gets, 0);
  EXPECT_EQ(tracker.remaining(), 0u);
  EXPECT_EQ(tracker.harvest().value(), 0u)
      << "what a device wrote before the start is sent already";
}

TEST(DirtyTrackerBlockTest, ABlockOfChunksIsClearedOnceBeforeItsFirstIsTaken) {
  constexpr std::uint64_t kBlock = 4096;
  constexpr std::uint64_t kTwoBlocks = kBlock + 70;
  auto memory = GuestMemory::create(kBase, kTwoBlocks * kPageSize, Backing::kAnonymous).value();
  FakeDirtyLog log(kTwoBlocks);
  DirtyTracker tracker(log, memory);
  ASSERT_TRUE(tracker.start(DirtyLogMode::kWriteProtect));
  const std::vector<PageRange> first = {{0, kBlock}};
  ASSERT_TRUE(tracker.take().value());
  EXPECT_EQ(log.clears, first);
  ASSERT_TRUE(tracker.take().value());
  EXPECT_EQ(log.clears, first) << "the second chunk was cleared with the first";
  while (tracker.take().value()) {
  }
  const std::vector<PageRange> both = {{0, kBlock}, {kBlock, 70}};
  EXPECT_EQ(log.clears, both);
  log.clears.clear();
  log.write(kBlock + 1);
  EXPECT_EQ(tracker.harvest().value(), 1u);
  EXPECT_EQ(pages_of(*tracker.take().value()), (std::vector<std::uint64_t>{kBlock + 1}));
  EXPECT_EQ(log.clears, (std::vector<PageRange>{{kBlock, 70}}))
      << "blocks without dirty pages are left";
}

TEST_F(DirtyTrackerTest, UnitesTheWritesOfVcpusAndDevicesAndDiscards) {
  start_and_take_all();
  log.write(1);
  log.write(kPages - 1);
  ASSERT_TRUE(memory.write(kBase + 5 * kPageSize, std::vector<std::byte>(8)));
  ASSERT_TRUE(memory.discard(kBase + 260 * kPageSize, 2 * kPageSize));
  EXPECT_EQ(tracker.harvest().value(), 5u);
  EXPECT_EQ(take_all(), (Pages{1, 5, 260, 261, kPages - 1}));
  EXPECT_EQ(tracker.harvest().value(), 0u);
}

TEST_F(DirtyTrackerTest, FindsAWriteBehindTheClearAgain) {
  ASSERT_TRUE(tracker.start(DirtyLogMode::kWriteProtect));
  ASSERT_TRUE(tracker.take().value());
  log.write(7);
  (void)take_all();
  EXPECT_EQ(tracker.harvest().value(), 1u);
  EXPECT_EQ(take_all(), Pages{7});
}

TEST_F(DirtyTrackerTest, KeepsWhatWasNotTakenOrWasPutBack) {
  ASSERT_TRUE(tracker.start(DirtyLogMode::kWriteProtect));
  const auto first = tracker.take().value();
  ASSERT_TRUE(first);
  tracker.put_back(*first);
  EXPECT_EQ(tracker.harvest().value(), kPages);
  EXPECT_EQ(take_all().size(), kPages);
}

TEST_F(DirtyTrackerTest, PutsAChunkBackThatCannotBeCleared) {
  ASSERT_TRUE(tracker.start(DirtyLogMode::kWriteProtect));
  log.broken = true;
  const auto taken = tracker.take();
  ASSERT_FALSE(taken);
  EXPECT_EQ(taken.error().message(), "the log is broken");
  EXPECT_EQ(tracker.harvest().value(), kPages);
}

TEST_F(DirtyTrackerTest, LosesNothingWhenTheLogCannotBeRead) {
  start_and_take_all();
  log.write(9);
  memory.device_dirty().set(10);
  log.broken = true;
  EXPECT_FALSE(tracker.harvest());
  EXPECT_EQ(tracker.harvest().value(), 2u);
}

TEST_F(DirtyTrackerTest, IsOffWhenLoggingCannotStart) {
  log.broken = true;
  EXPECT_FALSE(tracker.start(DirtyLogMode::kHardware));
  ASSERT_TRUE(tracker.stop());
  EXPECT_EQ(log.stops, 0);
}

TEST_F(DirtyTrackerTest, TurnsLoggingOffOnceAndWhenItGoes) {
  {
    DirtyTracker other(log, memory);
    ASSERT_TRUE(other.start(DirtyLogMode::kHardware));
    ASSERT_TRUE(other.set_mode(DirtyLogMode::kWriteProtect));
    EXPECT_EQ(log.mode(), DirtyLogMode::kWriteProtect);
  }
  EXPECT_FALSE(log.on);
  EXPECT_EQ(log.stops, 1);
  ASSERT_TRUE(tracker.start(DirtyLogMode::kHardware));
  ASSERT_TRUE(tracker.stop());
  ASSERT_TRUE(tracker.stop());
  EXPECT_EQ(log.stops, 2);
}

TEST_F(DirtyTrackerTest, LetsASamplerClearEverythingAtOnce) {
  ASSERT_TRUE(tracker.start(DirtyLogMode::kWriteProtect));
  std::vector<std::uint64_t> seen(dirty_words(kPages));
  ASSERT_TRUE(tracker.clear_pending(seen));
  EXPECT_EQ(log.clears, (std::vector<PageRange>{{0, kPages}}));
  std::ranges::fill(seen, 0);
  log.write(2);
  ASSERT_EQ(tracker.harvest().value(), 1u);
  ASSERT_TRUE(tracker.clear_pending(seen));
  log.write(70);
  ASSERT_EQ(tracker.harvest().value(), 1u);
  ASSERT_TRUE(tracker.clear_pending(seen));
  EXPECT_EQ(seen[0], 4u);
  EXPECT_EQ(seen[1], std::uint64_t{1} << 6);
  log.write(3);
  ASSERT_EQ(tracker.harvest().value(), 1u);
  log.broken = true;
  EXPECT_FALSE(tracker.clear_pending(seen));
  EXPECT_EQ(tracker.harvest().value(), 1u);
}

TEST_F(DirtyTrackerTest, GivesEachChunkToOneOfManyThreads) {
  ASSERT_TRUE(tracker.start(DirtyLogMode::kWriteProtect));
  std::vector<Pages> taken(4);
  {
    std::vector<std::jthread> threads;
    for (auto& mine : taken) threads.emplace_back([&] { mine = take_all(); });
  }
  std::multiset<std::uint64_t> all;
  for (const auto& mine : taken) all.insert(mine.begin(), mine.end());
  EXPECT_EQ(all.size(), kPages);
  EXPECT_EQ(std::set(all.begin(), all.end()).size(), kPages);
}

// vCPUs, devices and discards come in between any two steps; in the end the other side must have
// the last version of every page.
TEST_F(DirtyTrackerTest, LosesNoWriteWheneverItHappens) {
  for (unsigned seed = 0; seed < 60; ++seed) {
    std::mt19937 random(seed);
    const auto chance = [&](unsigned one_in) { return random() % one_in == 0; };
    std::vector<std::uint64_t> version(kPages, 1);
    std::vector<std::uint64_t> sent(kPages, 0);
    Pages unmarked;
    bool writing = true;
    log.between = [&] {
      for (unsigned i = 0; writing && i < random() % 4; ++i) {
        const std::uint64_t page = random() % kPages;
        ++version[page];
        if (chance(3)) {
          unmarked.push_back(page);  // a device marks a little later
        } else if (chance(4)) {
          ASSERT_TRUE(memory.discard(kBase + page * kPageSize, kPageSize));
        } else {
          log.write(page);
        }
      }
      if (!unmarked.empty() && (chance(2) || !writing)) {
        for (const auto page : unmarked) memory.mark_dirty(kBase + page * kPageSize, kPageSize);
        unmarked.clear();
      }
    };
    log.between();
    ASSERT_TRUE(tracker.start(chance(2) ? DirtyLogMode::kHardware : DirtyLogMode::kWriteProtect));
    for (int round = 0; round < 12; ++round) {
      writing = round < 8;
      log.between();
      if (chance(4) && writing) log.broken = true;
      while (true) {
        auto chunk = tracker.take();
        if (!chunk) continue;
        if (!chunk.value()) break;
        log.between();
        if (chance(5) && writing) {
          tracker.put_back(*chunk.value());
          continue;
        }
        for (const auto page : pages_of(*chunk.value())) {
          sent[page] = version[page];
          if (chance(16)) log.between();
        }
        if (chance(8) && writing) break;  // a round cut short
      }
      log.between();
      if (chance(4) && writing) {
        log.broken = true;
        EXPECT_FALSE(tracker.harvest());
      }
      ASSERT_TRUE(tracker.harvest());
    }
    EXPECT_EQ(tracker.remaining(), 0u);
    EXPECT_EQ(sent, version) << "seed " << seed;
    ASSERT_TRUE(tracker.stop());
  }
}

}  // namespace
}  // namespace vmm
