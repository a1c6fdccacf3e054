#include "devices/virtio/balloon.h"

#include <linux/virtio_ids.h>

#include <map>
#include <numeric>

#include "virtio_rig.h"

namespace vmm::virtio {
namespace {

constexpr unsigned kInflate = 0;
constexpr unsigned kDeflate = 1;
constexpr unsigned kStatistics = 2;
constexpr std::uint64_t kStats = 1U << VIRTIO_BALLOON_F_STATS_VQ;
constexpr std::uint64_t kReporting = 1U << VIRTIO_BALLOON_F_REPORTING;
constexpr std::uint64_t kDeflateOnOom = 1U << VIRTIO_BALLOON_F_DEFLATE_ON_OOM;
constexpr std::uint32_t kPage = 4096;
// Memory that the guest gives up, apart from the lists that say so.
constexpr std::uint64_t kGiven = kRigBuffers + 0x10'0000;

using namespace std::chrono_literals;

class VirtioBalloonTest : public ::testing::Test {
 protected:
  VirtioBalloonTest() { attach(rig); }

  static void attach(VirtioRig& to) { to.attach(std::make_unique<Balloon>(to.memory, to.loop)); }
  static Balloon& balloon_of(VirtioRig& of) {
    return dynamic_cast<Balloon&>(of.transport->device());
  }
  Balloon& balloon() { return balloon_of(rig); }

  // A driver that has gone, and the next one, with rings of its own.
  void restart(std::optional<std::uint64_t> features = {}) {
    rig.write(VIRTIO_MMIO_STATUS, 0);
    const auto rings = rig.memory.slice(kRigRam, VirtioRig::table(8) - kRigRam).value();
    std::ranges::fill(rings, std::byte{0});
    rig.start(features);
  }

  std::uint32_t config(std::uint64_t offset) {
    return static_cast<std::uint32_t>(mmio_read(*rig.transport, VIRTIO_MMIO_CONFIG + offset));
  }
  std::uint64_t counter(std::string_view name) {
    for (const auto& [key, value] : balloon().counters()) {
      if (key == name) return value;
    }
    ADD_FAILURE() << name;
    return 0;
  }
  // Fills pages from kGiven on, so that it shows which of them went.
  void fill(int pages) {
    for (int page = 0; page < pages; ++page) {
      rig.poke(kGiven + static_cast<std::uint64_t>(page) * kPage, std::uint64_t{0x1122});
      rig.poke(kGiven + static_cast<std::uint64_t>(page + 1) * kPage - 8, std::uint64_t{0x3344});
    }
  }
  // Whether the page went as a whole ('.'), is there as a whole ('#'), or else ('?').
  std::string pages(int count) {
    std::string map;
    for (int page = 0; page < count; ++page) {
      const auto at = kGiven + static_cast<std::uint64_t>(page) * kPage;
      const auto first = rig.peek<std::uint64_t>(at);
      const auto last = rig.peek<std::uint64_t>(at + kPage - 8);
      map += first == 0 && last == 0 ? '.' : first == 0x1122 && last == 0x3344 ? '#' : '?';
    }
    return map;
  }
  static std::uint32_t number(int page) {
    return static_cast<std::uint32_t>(kGiven / kPage) + static_cast<std::uint32_t>(page);
  }
  // Writes a list of page numbers and returns the segment that it is.
  Segment list(const std::vector<std::uint32_t>& numbers) {
    for (std::size_t i = 0; i < numbers.size(); ++i) rig.poke(kRigBuffers + i * 4, numbers[i]);
    return {kRigBuffers, static_cast<std::uint32_t>(numbers.size() * 4)};
  }
  void submit(unsigned queue, const std::vector<std::uint32_t>& numbers) {
    const auto head = rig.submit(queue, {list(numbers)});
    const auto used = rig.take_used(queue);
    ASSERT_TRUE(used);
    EXPECT_EQ(used->id, head);
    EXPECT_EQ(used->len, 0U);
  }
  // Puts statistics into the queue, as a driver answers.
  void tell(const std::vector<std::pair<std::uint16_t, std::uint64_t>>& values) {
    std::uint64_t at = kRigBuffers + 0x8000;
    for (const auto& [tag, value] : values) {
      rig.poke(at, tag);
      rig.poke(at + 2, value);
      at += 10;
    }
    rig.submit(kStatistics,
               {{kRigBuffers + 0x8000, static_cast<std::uint32_t>(values.size() * 10)}});
  }

  VirtioRig rig;
};

TEST_F(VirtioBalloonTest, IsABalloonThatReportsAndGivesWayBeforeTheGuestRunsOut) {
  EXPECT_EQ(rig.read(VIRTIO_MMIO_DEVICE_ID), unsigned{VIRTIO_ID_BALLOON});
  EXPECT_EQ(rig.offered() & 0xff'ffff, kStats | kReporting | kDeflateOnOom);
  for (unsigned queue = 0; queue < 5; ++queue) {
    rig.write(VIRTIO_MMIO_QUEUE_SEL, queue);
    EXPECT_GE(rig.read(VIRTIO_MMIO_QUEUE_NUM_MAX), 32U) << "Linux reports 32 ranges at a time";
  }
}

// --- Target ---

TEST_F(VirtioBalloonTest, ATargetIsToldInPagesAndAnsweredByTheDriver) {
  rig.start();
  balloon().set_target((4 << 20) + 4095);
  EXPECT_EQ(config(0), 1024U);
  EXPECT_EQ(rig.edge.count, 1);
  EXPECT_EQ(rig.read(VIRTIO_MMIO_INTERRUPT_STATUS), unsigned{VIRTIO_MMIO_INT_CONFIG});
  EXPECT_EQ(balloon().status().target, 4U << 20);
  EXPECT_EQ(balloon().status().actual, 0U);
  mmio_write(*rig.transport, VIRTIO_MMIO_CONFIG + 4, 1000);
  EXPECT_EQ(config(4), 1000U);
  EXPECT_EQ(balloon().status().actual, 1000U * kPage);
  EXPECT_EQ(counter("actual_bytes"), 1000U * kPage);
  balloon().set_target(4 << 20);
  EXPECT_EQ(rig.edge.count, 1) << "nothing has changed";
}

TEST_F(VirtioBalloonTest, ATargetIsAtMostAllOfRam) {
  rig.start();
  balloon().set_target(~std::uint64_t{0});
  EXPECT_EQ(config(0), kRigRamSize / kPage);
}

TEST_F(VirtioBalloonTest, TheDriverWritesNothingButTheActualSize) {
  rig.start();
  balloon().set_target(1 << 20);
  mmio_write(*rig.transport, VIRTIO_MMIO_CONFIG, 7);
  mmio_write(*rig.transport, VIRTIO_MMIO_CONFIG + 4, 7, 1);
  mmio_write(*rig.transport, VIRTIO_MMIO_CONFIG + 4, 7, 8);
  mmio_write(*rig.transport, VIRTIO_MMIO_CONFIG + 5, 7, 4);
  mmio_write(*rig.transport, VIRTIO_MMIO_CONFIG + 12, 7);
  mmio_write(*rig.transport, VIRTIO_MMIO_CONFIG + 0x80, 7);
  EXPECT_EQ(config(0), 256U);
  EXPECT_EQ(config(4), 0U);
  EXPECT_EQ(config(8), 0U);
  EXPECT_EQ(config(12), 0U);
  EXPECT_EQ(config(0x80), 0U);
}

TEST_F(VirtioBalloonTest, TheTargetOutlivesADriverAndTheActualSizeDoesNot) {
  rig.start();
  balloon().set_target(1 << 20);
  mmio_write(*rig.transport, VIRTIO_MMIO_CONFIG + 4, 256);
  rig.write(VIRTIO_MMIO_STATUS, 0);
  EXPECT_EQ(balloon().status().target, 1U << 20);
  EXPECT_EQ(balloon().status().actual, 0U);
  EXPECT_EQ(config(0), 256U);
}

TEST_F(VirtioBalloonTest, ATargetThatComesWhileQuietWaits) {
  rig.start();
  rig.transport->quiesce();
  const auto before = saved(*rig.transport);
  balloon().set_target(1 << 20);
  EXPECT_EQ(saved(*rig.transport), before);
  EXPECT_EQ(balloon().status().target, 1U << 20);
  EXPECT_EQ(rig.edge.count, 0);
  rig.transport->resume();
  EXPECT_EQ(config(0), 256U);
  EXPECT_EQ(rig.edge.count, 1);
}

// --- Pages ---

TEST_F(VirtioBalloonTest, InflatedPagesGoBackAndCountAsWritten) {
  rig.start();
  fill(8);
  rig.memory.device_dirty().clear();
  submit(kInflate, {number(6), number(1), number(2), number(4)});
  EXPECT_EQ(pages(8), "#..#.#.#");
  for (int page = 0; page < 8; ++page) {
    EXPECT_EQ(rig.is_dirty(kGiven + static_cast<std::uint64_t>(page) * kPage),
              pages(8)[static_cast<std::size_t>(page)] == '.')
        << page;
  }
  EXPECT_EQ(counter("inflated_pages"), 4U);
  EXPECT_EQ(counter("discard_errors"), 0U);
  fill(8);
  EXPECT_EQ(pages(8), "########") << "a page that is used again is there";
}

TEST_F(VirtioBalloonTest, NumbersMayRepeatAndComeInAnyOrder) {
  rig.start();
  fill(300);
  std::vector<std::uint32_t> numbers;
  for (int page = 299; page >= 44; --page) numbers.push_back(number(page));
  for (int i = 0; i < 50; ++i) numbers.push_back(number(44 + i * 5));
  submit(kInflate, numbers);
  EXPECT_EQ(pages(300), std::string(44, '#') + std::string(256, '.'));
  EXPECT_EQ(counter("inflated_pages"), numbers.size());
}

TEST_F(VirtioBalloonTest, TheFirstAndLastPageOfRamCanGo) {
  rig.start();
  const std::uint64_t last = kRigRam + kRigRamSize - kPage;
  rig.poke(last, std::uint64_t{1});
  submit(kInflate, {static_cast<std::uint32_t>(last / kPage)});
  EXPECT_EQ(rig.peek<std::uint64_t>(last), 0U);
  EXPECT_FALSE(rig.needs_reset());
  // The first page is the descriptor table of this very queue: the guest hurts itself alone.
  submit(kInflate, {kRigRam / kPage});
  EXPECT_EQ(rig.peek<std::uint64_t>(kRigRam), 0U);
}

TEST_F(VirtioBalloonTest, DeflatedPagesAreLeftAlone) {
  rig.start();
  fill(2);
  submit(kDeflate, {number(0), number(1)});
  EXPECT_EQ(pages(2), "##");
  EXPECT_EQ(counter("deflated_pages"), 2U);
}

TEST_F(VirtioBalloonTest, PageNumbersOutsideOfRamNeedAReset) {
  const auto first = static_cast<std::uint32_t>(kRigRam / kPage);
  const auto end = static_cast<std::uint32_t>((kRigRam + kRigRamSize) / kPage);
  for (const unsigned queue : {kInflate, kDeflate}) {
    for (const std::uint32_t bad : {0U, first - 1, end, end + 1, 0xffff'ffffU}) {
      restart();
      fill(1);
      rig.submit(queue, {list({number(0), bad})});
      EXPECT_TRUE(rig.needs_reset()) << queue << " " << bad;
      EXPECT_EQ(pages(1), "#") << "nothing of such a request is done";
      EXPECT_FALSE(rig.take_used(queue));
    }
  }
}

TEST_F(VirtioBalloonTest, AListThatIsNoListNeedsAReset) {
  struct Case {
    const char* what;
    std::vector<Segment> segments;
  };
  for (const auto& [what, segments] : {
           Case{"half a number", {{kRigBuffers, 6}}},
           Case{"longer than any driver's", {{kRigBuffers, 16 * 1024 + 4}}},
           Case{"not in RAM", {{kRigRam + kRigRamSize - 4, 8}}},
       }) {
    restart();
    list(std::vector<std::uint32_t>(5000, number(0)));
    rig.submit(kInflate, segments);
    EXPECT_TRUE(rig.needs_reset()) << what;
  }
}

TEST_F(VirtioBalloonTest, ListsInPiecesAndWithoutNumbersAreFine) {
  rig.start();
  fill(4);
  list({number(0), number(2)});
  rig.submit(kInflate, {{kRigBuffers, 3}, {kRigBuffers + 3, 5}, {kGiven + kPage, kPage, true}});
  EXPECT_EQ(pages(4), ".#.#") << "a writable part is no list";
  rig.submit(kInflate, {{kGiven + kPage, kPage, true}});
  rig.submit(kInflate, {{kRigBuffers, 0}});
  EXPECT_EQ(pages(4), ".#.#");
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(rig.take_used(kInflate));
  EXPECT_FALSE(rig.needs_reset());
}

TEST_F(VirtioBalloonTest, ManyRequestsAreHandledInTurns) {
  rig.start();
  fill(1);
  list({number(0)});
  // A ring that holds the same request over and over.
  rig.put_descriptor(VirtioRig::table(kInflate), {kRigBuffers, 4, 0, 0});
  for (int i = 0; i < VirtioRig::kQueueSize; ++i) rig.offer(kInflate, 0);
  rig.kick(kInflate);
  ASSERT_TRUE(rig.loop.turn());
  EXPECT_EQ(counter("inflated_pages"), 16U);
  for (int i = 0; i < VirtioRig::kQueueSize; ++i) rig.offer(kInflate, 0);
  ASSERT_TRUE(rig.loop.settle());
  EXPECT_EQ(counter("inflated_pages"), 32U);
}

// --- Reporting ---

struct Numbering {
  const char* name;
  std::uint64_t features;
  unsigned queue;
};

class VirtioBalloonReportTest : public VirtioBalloonTest,
                                public ::testing::WithParamInterface<Numbering> {};

TEST_P(VirtioBalloonReportTest, ReportedRangesGoBackAndCountAsWritten) {
  const auto& [name, features, queue] = GetParam();
  rig.start(features);
  fill(16);
  rig.memory.device_dirty().clear();
  rig.submit(queue, {{kGiven + 8 * kPage, 2 * kPage, true},
                     {kGiven + 2 * kPage, 3 * kPage, true},
                     {kGiven + 5 * kPage, kPage, true}});
  ASSERT_TRUE(rig.take_used(queue));
  EXPECT_EQ(pages(16), "##....##..######");
  EXPECT_TRUE(rig.is_dirty(kGiven + 3 * kPage));
  EXPECT_FALSE(rig.is_dirty(kGiven + 6 * kPage));
  EXPECT_EQ(counter("reported_bytes"), 6U * kPage);
  EXPECT_EQ(counter("inflated_pages"), 0U);
}

INSTANTIATE_TEST_SUITE_P(
    Numberings, VirtioBalloonReportTest,
    ::testing::Values(Numbering{"LinuxWithStatistics", kReporting | kStats, 3},
                      Numbering{"LinuxWithoutStatistics", kReporting, 2},
                      Numbering{"SpecificationWithStatistics", kReporting | kStats, 4},
                      Numbering{"SpecificationWithoutStatistics", kReporting, 4}),
    [](const auto& param) { return param.param.name; });

TEST_F(VirtioBalloonTest, ReportsNobodyAgreedToAreIgnored) {
  rig.start(kStats);
  fill(2);
  for (const unsigned queue : {3U, 4U}) rig.submit(queue, {{kGiven, 2 * kPage, true}});
  EXPECT_EQ(pages(2), "##");
  EXPECT_FALSE(rig.needs_reset());
}

TEST_F(VirtioBalloonTest, OnlyWholePagesOfAReportGo) {
  rig.start();
  fill(6);
  rig.submit(3, {{kGiven + 100, 2 * kPage, true}});
  EXPECT_EQ(pages(6), "#.####");
  rig.submit(3, {{kGiven + 3 * kPage + 8, kPage, true}});
  rig.submit(3, {{kGiven + 4 * kPage, 100, true}});
  EXPECT_EQ(pages(6), "#.####");
  rig.submit(3, {{kGiven + 5 * kPage + 16, kPage - 16, true}, {kGiven + 5 * kPage, 16, true}});
  EXPECT_EQ(pages(6), "#.###.") << "pieces that make a page are one";
  EXPECT_EQ(counter("discard_errors"), 0U);
}

TEST_F(VirtioBalloonTest, TheReadablePartOfAReportStays) {
  rig.start();
  fill(3);
  rig.submit(3, {{kGiven, kPage}, {kGiven + kPage, kPage, true}});
  rig.submit(3, {{kGiven + 2 * kPage, kPage}});
  EXPECT_EQ(pages(3), "#.#");
  EXPECT_EQ(counter("reported_bytes"), std::uint64_t{kPage});
}

TEST_F(VirtioBalloonTest, AReportOfMoreThanAllRamNeedsAReset) {
  rig.start();
  fill(2);
  const auto half = static_cast<std::uint32_t>(kRigRamSize / 2);
  rig.submit(3, {{kRigBuffers, half, true}, {kRigBuffers, half, true}, {kGiven, kPage, true}});
  EXPECT_TRUE(rig.needs_reset());
  EXPECT_EQ(pages(2), "##");
  restart();
  rig.submit(3, {{kRigBuffers, half, true}, {kRigBuffers, half, true}});
  EXPECT_FALSE(rig.needs_reset()) << "the same range twice is silly, but possible";
  EXPECT_EQ(pages(2), "..");
}

// --- Statistics ---

TEST_F(VirtioBalloonTest, StatisticsAreReadWhenTheDriverTells) {
  rig.start();
  EXPECT_EQ(balloon().status().statistics, BalloonStatistics());
  tell({{VIRTIO_BALLOON_S_MEMFREE, 1 << 20},
        {VIRTIO_BALLOON_S_MEMTOT, 2 << 20},
        {0x7fff, 5},
        {VIRTIO_BALLOON_S_NR, 6}});
  const auto status = balloon().status();
  BalloonStatistics expected;
  expected[VIRTIO_BALLOON_S_MEMFREE] = 1 << 20;
  expected[VIRTIO_BALLOON_S_MEMTOT] = 2 << 20;
  EXPECT_EQ(status.statistics, expected) << "unknown ones are left out";
  EXPECT_EQ(status.statistics_updates, 1U);
  EXPECT_FALSE(rig.take_used(kStatistics)) << "the buffer stays until new ones are wanted";
}

TEST_F(VirtioBalloonTest, AskingGivesTheBufferBackForNewStatistics) {
  for (const std::uint64_t event_index :
       {std::uint64_t{0}, std::uint64_t{1} << VIRTIO_RING_F_EVENT_IDX}) {
    restart(kStats | event_index);
    balloon().request_statistics();
    EXPECT_FALSE(rig.take_used(kStatistics)) << "there is no buffer yet";
    for (std::uint64_t round = 0; round < 40; ++round) {
      tell({{VIRTIO_BALLOON_S_AVAIL, round}});
      EXPECT_EQ(balloon().status().statistics[VIRTIO_BALLOON_S_AVAIL], round);
      const int interrupts = rig.edge.count;
      // With the event index, the driver wants to be told of the next one.
      rig.poke(VirtioRig::available(kStatistics) + 4 + VirtioRig::kQueueSize * 2ULL,
               static_cast<std::uint16_t>(round));
      balloon().request_statistics();
      EXPECT_EQ(rig.edge.count, interrupts + 1);
      balloon().request_statistics();
      ASSERT_TRUE(rig.take_used(kStatistics));
      EXPECT_FALSE(rig.take_used(kStatistics));
      if (event_index != 0) {
        const auto wanted = rig.peek<std::uint16_t>(VirtioRig::used(kStatistics) + 4 +
                                                    VirtioRig::kQueueSize * 8ULL);
        EXPECT_EQ(wanted, round + 1) << "the answer is to be kicked";
      }
    }
  }
}

TEST_F(VirtioBalloonTest, APeriodAsksRegularlyUntilItEnds) {
  rig.start();
  balloon().set_statistics_period(5s);
  tell({{VIRTIO_BALLOON_S_AVAIL, 1}});
  rig.loop.advance(4s);
  EXPECT_FALSE(rig.take_used(kStatistics));
  for (int round = 0; round < 3; ++round) {
    rig.loop.advance(5s);
    EXPECT_TRUE(rig.take_used(kStatistics));
    tell({{VIRTIO_BALLOON_S_AVAIL, 1}});
  }
  balloon().set_statistics_period(0s);
  EXPECT_FALSE(rig.loop.has_timer_set());
  rig.loop.advance(60s);
  EXPECT_FALSE(rig.take_used(kStatistics));
}

TEST_F(VirtioBalloonTest, APeriodGoesOnOverAResetOfTheDriver) {
  balloon().set_statistics_period(1s);
  rig.loop.advance(2s);
  rig.start(0);
  rig.loop.advance(2s);
  restart();
  tell({{VIRTIO_BALLOON_S_AVAIL, 1}});
  rig.loop.advance(1s);
  EXPECT_TRUE(rig.take_used(kStatistics));
}

TEST_F(VirtioBalloonTest, StatisticsOfADriverThatHasGoneAreGone) {
  rig.start();
  tell({{VIRTIO_BALLOON_S_AVAIL, 1}});
  rig.write(VIRTIO_MMIO_STATUS, 0);
  EXPECT_EQ(balloon().status().statistics, BalloonStatistics());
}

TEST_F(VirtioBalloonTest, AFloodOfStatisticsIsReadOneAtATime) {
  rig.start();
  for (int i = 0; i < VirtioRig::kQueueSize; ++i) tell({{VIRTIO_BALLOON_S_AVAIL, 7}});
  for (int i = 0; i < 1000; ++i) {
    rig.kick(kStatistics);
    ASSERT_TRUE(rig.loop.settle());
  }
  EXPECT_FALSE(rig.take_used(kStatistics)) << "nothing is given back unless asked for";
  for (int i = 0; i < VirtioRig::kQueueSize; ++i) {
    balloon().request_statistics();
    ASSERT_TRUE(rig.loop.settle());
    EXPECT_TRUE(rig.take_used(kStatistics));
  }
  EXPECT_FALSE(rig.needs_reset());
}

TEST_F(VirtioBalloonTest, StatisticsMayBeHalfMissingOrWritable) {
  rig.start();
  rig.poke(kRigBuffers, std::uint16_t{VIRTIO_BALLOON_S_AVAIL});
  rig.poke(kRigBuffers + 2, std::uint64_t{9});
  rig.submit(kStatistics, {{kRigBuffers, 19}, {kRigBuffers + 0x1000, 100, true}});
  EXPECT_EQ(balloon().status().statistics[VIRTIO_BALLOON_S_AVAIL], 9U);
  balloon().request_statistics();
  ASSERT_TRUE(rig.take_used(kStatistics));
  rig.submit(kStatistics, {{kRigBuffers, 9}});
  EXPECT_EQ(balloon().status().statistics, BalloonStatistics());
  EXPECT_FALSE(rig.needs_reset());
}

TEST_F(VirtioBalloonTest, StatisticsBeyondMeasureNeedAReset) {
  rig.start();
  rig.submit(kStatistics, {{kRigBuffers, 4097}});
  EXPECT_TRUE(rig.needs_reset());
  balloon().request_statistics();
  EXPECT_FALSE(rig.take_used(kStatistics));
}

TEST_F(VirtioBalloonTest, ABufferThatTurnsBadBeforeItIsGivenBackNeedsAReset) {
  rig.start();
  tell({{VIRTIO_BALLOON_S_AVAIL, 7}});
  rig.put_descriptor(VirtioRig::table(kStatistics), {0, 100, 0, 0});
  balloon().request_statistics();
  EXPECT_TRUE(rig.needs_reset());
}

// --- Saved state ---

TEST_F(VirtioBalloonTest, WhileQuietNothingIsGivenBackOrAsked) {
  rig.start();
  fill(1);
  tell({{VIRTIO_BALLOON_S_AVAIL, 7}});
  rig.transport->quiesce();
  const auto before = saved(*rig.transport);
  rig.memory.device_dirty().clear();
  balloon().request_statistics();
  rig.submit(kInflate, {list({number(0)})});
  EXPECT_EQ(pages(1), "#");
  EXPECT_EQ(saved(*rig.transport), before);
  rig.transport->resume();
  ASSERT_TRUE(rig.loop.settle());
  EXPECT_EQ(pages(1), ".");
}

class VirtioBalloonMoveTest : public VirtioBalloonTest, public ::testing::WithParamInterface<int> {
 protected:
  // The states there are: what driver and host have done so far.
  void reach(int state) {
    if (state >= 1) balloon().set_target(2 << 20);
    if (state >= 2) rig.start();
    if (state >= 3) {
      fill(16);
      submit(kInflate, {number(0), number(1)});
      mmio_write(*rig.transport, VIRTIO_MMIO_CONFIG + 4, 2);
    }
    if (state >= 4) tell({{VIRTIO_BALLOON_S_AVAIL, 42}});
    if (state >= 5) balloon().request_statistics();
    if (state >= 6) {
      // Requests that nobody has kicked for yet.
      rig.add(kInflate, {list({number(4)})});
      rig.add(3, {{kGiven + 8 * kPage, kPage, true}});
    }
    if (state >= 7) rig.submit(kDeflate, {{kRigBuffers, 3}});  // NEEDS_RESET
  }
};

TEST_P(VirtioBalloonMoveTest, SavedStateIsTheSameAfterRestore) {
  const int state_number = GetParam();
  reach(state_number);
  rig.transport->quiesce();
  const auto state = saved(*rig.transport);
  VirtioRig other;
  attach(other);
  other.transport->quiesce();
  std::memcpy(other.memory.regions()[0].bytes.data(), rig.memory.regions()[0].bytes.data(),
              kRigRamSize);
  ASSERT_TRUE(restored(*other.transport, state));
  EXPECT_EQ(saved(*other.transport), state);
  expect_hostile_bytes_refused(*other.transport, state);
  EXPECT_EQ(balloon_of(other).status().target, balloon().status().target);
  EXPECT_EQ(balloon_of(other).status().actual, balloon().status().actual);
  other.transport->resume();
  ASSERT_TRUE(other.loop.settle());
  if (state_number == 4) {
    EXPECT_EQ(balloon_of(other).status().statistics[VIRTIO_BALLOON_S_AVAIL], 42U)
        << "they are in the ring still";
  }
  const bool went = state_number == 6;
  EXPECT_EQ(other.peek<std::uint64_t>(kGiven + 4 * kPage) == 0, went || state_number < 3);
  EXPECT_EQ(other.peek<std::uint64_t>(kGiven + 8 * kPage) == 0, went || state_number < 3);
}

INSTANTIATE_TEST_SUITE_P(States, VirtioBalloonMoveTest, ::testing::Range(0, 8));

TEST_F(VirtioBalloonTest, ASavedTargetBeyondRamIsRefused) {
  rig.start();
  rig.transport->quiesce();
  const auto state = saved(*rig.transport);
  // The device's part comes last: version, target, actual size.
  expect_field_refused(*rig.transport, state, state.size() - 8,
                       static_cast<std::uint32_t>(kRigRamSize / kPage + 1));
  expect_field_refused(*rig.transport, state, state.size() - 12, std::uint32_t{2});
}

}  // namespace
}  // namespace vmm::virtio
