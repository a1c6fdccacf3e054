#include <set>

#include "devices/virtio/queue.h"
#include "virtio_ring_fixture.h"

// Giving requests back, and who tells whom about it.
namespace vmm::virtio {
namespace {

class UsedRingTest : public RingFixture {
 protected:
  // Takes the requests that are waiting and gives them back, `count` at most.
  static unsigned give_back(Queue& queue, unsigned count) {
    Chain chain;
    unsigned done = 0;
    while (done < count && pops(queue, chain)) {
      queue.push(chain, 0);
      ++done;
    }
    return done;
  }
};

TEST_F(UsedRingTest, ShowsWhatWasPushedOnlyWhenItIsPublished) {
  Queue queue = make();
  offer_buffer(6);
  offer_buffer(2);
  Chain first;
  Chain second;
  ASSERT_TRUE(pops(queue, first));
  ASSERT_TRUE(pops(queue, second));
  queue.push(second, 7);
  queue.push(first, 3);
  EXPECT_EQ(used_index(), 0);
  EXPECT_TRUE(queue.publish());
  EXPECT_EQ(used_index(), 2);
  EXPECT_EQ(used_element(0).id, 2U);
  EXPECT_EQ(used_element(0).len, 7U);
  EXPECT_EQ(used_element(1).id, 6U);
  EXPECT_EQ(used_element(1).len, 3U);
  EXPECT_EQ(queue.progress(), (QueueProgress{2, 2, 2}));
}

TEST_F(UsedRingTest, PublishesNothingTwice) {
  Queue queue = make();
  EXPECT_FALSE(queue.publish());
  offer_buffer(0);
  EXPECT_EQ(give_back(queue, 1), 1U);
  EXPECT_TRUE(queue.publish());
  EXPECT_FALSE(queue.publish());
}

TEST_F(UsedRingTest, MarksTheBytesWrittenAndTheRing) {
  describe(kTable, 0, {kBuffers, 0x1000, VRING_DESC_F_NEXT, 1});
  describe(kTable, 1, {kBuffers + 0x1ff0, 0x10, VRING_DESC_F_NEXT | VRING_DESC_F_WRITE, 2});
  describe(kTable, 2, {kBuffers + 0x2ff0, 0x1010, VRING_DESC_F_WRITE, 0});
  struct Case {
    std::uint32_t written;
    std::set<std::uint64_t> pages;  // from kBuffers
  };
  const Case cases[] = {
      {0, {}},        {1, {1}},          {0x10, {1}},         {0x11, {1, 2}},
      {0x20, {1, 2}}, {0x21, {1, 2, 3}}, {0x1020, {1, 2, 3}}, {0xffff'ffff, {1, 2, 3}},
  };
  for (const auto& [written, pages] : cases) {
    memory.device_dirty().clear();
    offer_index(0);
    offer(0);
    Queue queue = make();
    Chain chain;
    ASSERT_TRUE(pops(queue, chain));
    EXPECT_EQ(memory.device_dirty().count(), 0U);
    queue.push(chain, written);
    for (std::uint64_t page = 0; page < 6; ++page) {
      EXPECT_EQ(is_dirty(kBuffers + page * kPageSize), pages.contains(page))
          << written << " bytes, page " << page;
    }
    EXPECT_TRUE(is_dirty(kUsed));
    EXPECT_FALSE(is_dirty(kTable) || is_dirty(kAvailable));
  }
}

TEST_F(UsedRingTest, MarksTheRingWhenOnlyItsIndexOrWishesChange) {
  // The parts of the ring straddle pages.
  QueueConfig config = kConfig;
  config.used = kUsed - 4;
  for (const bool event_index : {false, true}) {
    Queue queue = Queue::create(memory, config, kLimits, event_index).value();
    offer_buffer(0);
    give_back(queue, 1);
    memory.device_dirty().clear();
    (void)queue.publish();
    EXPECT_TRUE(is_dirty(config.used + 2));
    memory.device_dirty().clear();
    (void)queue.enable_kicks();
    EXPECT_EQ(is_dirty(config.used + 4 + kSize * 8ULL), event_index);
    EXPECT_EQ(is_dirty(config.used), !event_index);
    memory.device_dirty().clear();
    queue.disable_kicks();
    EXPECT_EQ(is_dirty(config.used), !event_index);
    offer_index(0);
  }
}

TEST_F(UsedRingTest, InterruptsUnlessTheDriverWantsNone) {
  Queue queue = make();
  poke<std::uint16_t>(kAvailable, VRING_AVAIL_F_NO_INTERRUPT);
  offer_buffer(0);
  give_back(queue, 1);
  EXPECT_FALSE(queue.publish());
  EXPECT_EQ(used_index(), 1);
  poke<std::uint16_t>(kAvailable, 0xfffe);  // flags that do not exist
  offer_buffer(0);
  give_back(queue, 1);
  EXPECT_TRUE(queue.publish());
}

TEST_F(UsedRingTest, InterruptsWhereTheEventIndexSays) {
  struct Case {
    std::uint16_t start;
    unsigned count;        // given back at once
    std::uint16_t wanted;  // the driver's used_event
    bool interrupt;
  };
  const Case cases[] = {
      {0, 1, 0, true},                                  // at the first
      {0, 1, 1, false},                                 // not before the second
      {0, 1, 0xffff, false},                            // long gone
      {0, 4, 3, true},                                  // the last of a batch
      {0, 4, 0, true},                                  // its first
      {0, 4, 4, false},                                 // the one behind it
      {0xffff, 1, 0xffff, true},                        // the last index there is
      {0xffff, 1, 0, false},     {0xffff, 2, 0, true},  // across the end
      {0xfffc, 8, 3, true},      {0xfffc, 8, 4, false}, {0xfffc, 8, 0xfffb, false},
      {0x7fff, 2, 0x8000, true},
  };
  for (const auto& [start, count, wanted, interrupt] : cases) {
    offer_index(start);
    Queue queue = make(true, {start, start, start});
    // The flag has no meaning with the event index.
    poke<std::uint16_t>(kAvailable, VRING_AVAIL_F_NO_INTERRUPT);
    want_interrupt_at(wanted);
    for (std::uint16_t head = 0; head < count; ++head) offer_buffer(head);
    ASSERT_EQ(give_back(queue, count), count);
    EXPECT_EQ(queue.publish(), interrupt) << start << " + " << count << ", event " << wanted;
    EXPECT_EQ(used_index(), static_cast<std::uint16_t>(start + count));
  }
}

// What publish() did not tell is not told later: the driver has moved its wish on by then.
TEST_F(UsedRingTest, InterruptsOnceForEachTimeTheDriverAsks) {
  Queue queue = make(true);
  unsigned interrupts = 0;
  std::uint16_t wanted = 0;
  for (unsigned request = 0; request < 0x2'0000; ++request) {
    want_interrupt_at(wanted);
    offer_buffer(static_cast<std::uint16_t>(request % kSize));
    ASSERT_EQ(give_back(queue, 1), 1U);
    if (!queue.publish()) continue;
    ASSERT_EQ(static_cast<std::uint16_t>(request), wanted);
    ++interrupts;
    wanted = static_cast<std::uint16_t>(wanted + 100);
  }
  EXPECT_EQ(interrupts, 0x2'0000 / 100 + 1U);
}

TEST_F(UsedRingTest, AsksForNoKicksWhileItIsBusy) {
  Queue queue = make();
  queue.disable_kicks();
  EXPECT_EQ(peek<std::uint16_t>(kUsed), VRING_USED_F_NO_NOTIFY);
  EXPECT_FALSE(queue.enable_kicks());
  EXPECT_EQ(peek<std::uint16_t>(kUsed), 0);
  queue.disable_kicks();
  offer_buffer(0);
  EXPECT_TRUE(queue.enable_kicks());
}

TEST_F(UsedRingTest, AsksForAKickAtTheNextRequestByTheEventIndex) {
  for (const std::uint16_t start : std::initializer_list<std::uint16_t>{0, 5, 0x7fff, 0xffff}) {
    offer_index(start);
    poke<std::uint16_t>(kUsed, 0);
    Queue queue = make(true, {start, start, start});
    EXPECT_FALSE(queue.enable_kicks());
    EXPECT_EQ(kick_wanted_at(), start);
    queue.disable_kicks();
    offer_buffer(0);
    EXPECT_TRUE(queue.enable_kicks());
    EXPECT_EQ(kick_wanted_at(), start);
    EXPECT_EQ(give_back(queue, 2), 1U);
    EXPECT_FALSE(queue.enable_kicks());
    EXPECT_EQ(kick_wanted_at(), static_cast<std::uint16_t>(start + 1));
    EXPECT_EQ(peek<std::uint16_t>(kUsed), 0) << "the flag stays clear with the event index";
  }
}

TEST_F(UsedRingTest, SurvivesRingsThatOverwriteEachOther) {
  // Used ring on descriptor table on available ring: each answer changes what comes next.
  QueueConfig config = kConfig;
  config.available = config.used = config.descriptors;
  for (const bool event_index : {false, true}) {
    const auto ram = memory.slice(kRam, kRamSize).value();
    std::memset(ram.data(), 0, ram.size());
    poke<std::uint16_t>(kTable + 2, 1);
    Queue queue = Queue::create(memory, config, kLimits, event_index).value();
    Chain chain;
    for (int pass = 0; pass < 100; ++pass) {
      const auto popped = queue.pop(chain);
      if (!popped) break;
      if (popped.value()) queue.push(chain, 16);
      (void)queue.publish();
      (void)queue.enable_kicks();
      queue.disable_kicks();
    }
  }
}

TEST_F(UsedRingTest, WritesItsOwnRingsWhereARequestPointsAtThem) {
  Queue queue = make();
  describe(kTable, 0, {kUsed, 0x40, VRING_DESC_F_WRITE, 0});
  offer(0);
  Chain chain;
  ASSERT_TRUE(pops(queue, chain));
  std::memset(chain.writable()[0].iov_base, 0xff, 0x40);
  queue.push(chain, 0x40);
  EXPECT_TRUE(queue.publish());
  EXPECT_EQ(used_index(), 1);
  EXPECT_EQ(used_element(0).len, 0x40U);
}

TEST_F(UsedRingTest, SavesAndRestoresConfigAndProgress) {
  const QueueConfig config{16, true, 0x1122'3344'5566'7788, 0xfedc'ba98'7654'3210, 42};
  const QueueProgress progress{1, 0xffff, 0x8000};
  ByteWriter writer;
  save_queue(writer, config, progress);
  ByteReader reader(writer.bytes());
  const auto saved = restore_queue(reader);
  ASSERT_TRUE(saved.has_value());
  EXPECT_TRUE(reader.expect_end().has_value());
  EXPECT_EQ(saved.value().config, config);
  EXPECT_EQ(saved.value().progress, progress);
  for (std::size_t length = 0; length < writer.bytes().size(); ++length) {
    ByteReader cut(writer.bytes().first(length));
    EXPECT_FALSE(restore_queue(cut).has_value()) << length;
  }
}

TEST_F(UsedRingTest, GoesOnWhereASavedQueueWas) {
  Queue queue = make(true, {0xfffe, 0xfffe, 0xfffe});
  for (std::uint16_t head = 0; head < 4; ++head) offer_buffer(head);
  EXPECT_EQ(give_back(queue, 3), 3U);
  want_interrupt_at(0xffff);
  // Pushed, and not published.
  Queue again = Queue::create(memory, kConfig, kLimits, true, queue.progress()).value();
  EXPECT_TRUE(again.publish());
  EXPECT_EQ(used_index(), 1);
  EXPECT_EQ(give_back(again, 2), 1U);
  EXPECT_EQ(used_element(0xfffe).id, 0U);
  EXPECT_EQ(used_element(1).id, 3U);
}

}  // namespace
}  // namespace vmm::virtio
