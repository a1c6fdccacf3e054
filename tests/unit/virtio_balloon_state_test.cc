#include <map>

#include "balloon_rig.h"

// What the balloon knows of the guest, and takes along when it moves.
namespace vmm::virtio {
namespace {

using namespace std::chrono_literals;

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
