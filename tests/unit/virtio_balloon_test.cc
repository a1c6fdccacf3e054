#include "devices/virtio/balloon.h"

#include <linux/virtio_ids.h>
#include <sys/mman.h>

#include <numeric>

#include "balloon_rig.h"
#include "madvise_fault.h"

namespace vmm::virtio {
namespace {

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

TEST_F(VirtioBalloonTest, PagesThatTheHostKeepsStayAndAreCounted) {
  rig.start();
  fill(2);
  {
    const MadviseFault fault(MADV_DONTNEED, ENOMEM);
    submit(kInflate, {number(1)});
  }
  EXPECT_EQ(pages(2), "##");
  EXPECT_EQ(counter("discard_errors"), 1U);
  EXPECT_FALSE(rig.needs_reset());
  submit(kInflate, {number(1)});
  EXPECT_EQ(pages(2), "#.");
  EXPECT_EQ(counter("discard_errors"), 1U);
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

}  // namespace
}  // namespace vmm::virtio
