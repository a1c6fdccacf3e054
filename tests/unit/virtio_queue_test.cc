#include "devices/virtio/queue.h"

#include "virtio_ring_fixture.h"

// Taking requests from a queue: its parts, its index, and chains of descriptors.
namespace vmm::virtio {
namespace {

using ::testing::HasSubstr;

class QueueTest : public RingFixture {};

TEST_F(QueueTest, IsMadeOfPartsThatLieInRam) {
  struct Case {
    const char* what;
    QueueConfig config;
    const char* error;  // null where the queue is fine
  };
  constexpr auto with = [](auto change) {
    QueueConfig config = kConfig;
    change(config);
    return config;
  };
  constexpr std::uint64_t kTableBytes = kSize * 16;
  constexpr std::uint64_t kAvailableBytes = 6 + kSize * 2;
  constexpr std::uint64_t kUsedBytes = 6 + kSize * 8;
  constexpr std::uint64_t kLast = std::numeric_limits<std::uint64_t>::max();
  const Case cases[] = {
      {"as it should be", kConfig, nullptr},
      {"size 0", with([](auto& c) { c.size = 0; }), "a queue of 0"},
      {"size 1", with([](auto& c) { c.size = 1; }), nullptr},
      {"size 3", with([](auto& c) { c.size = 3; }), "a queue of 3"},
      {"largest size", with([](auto& c) { c.size = 16; }), nullptr},
      {"beyond it", with([](auto& c) { c.size = 32; }), "a queue of 32"},
      {"largest power of two", with([](auto& c) { c.size = 0x8000; }), "a queue of 32768"},
      {"misaligned table", with([](auto& c) { c.descriptors += 8; }), "not aligned to 16"},
      {"misaligned available ring", with([](auto& c) { c.available += 1; }), "not aligned to 2"},
      {"misaligned used ring", with([](auto& c) { c.used += 2; }), "not aligned to 4"},
      {"no table", with([](auto& c) { c.descriptors = 0; }), "descriptor table"},
      {"table before RAM", with([](auto& c) { c.descriptors = kRam - 16; }), "descriptor table"},
      {"table up to the end", with([](auto& c) { c.descriptors = kRamEnd - kTableBytes; }),
       nullptr},
      {"table across the end", with([](auto& c) { c.descriptors = kRamEnd - kTableBytes + 16; }),
       "descriptor table"},
      {"table at the end", with([](auto& c) { c.descriptors = kRamEnd; }), "descriptor table"},
      {"table at the last address", with([](auto& c) { c.descriptors = kLast & ~15ULL; }),
       "descriptor table"},
      {"available ring up to the end",
       with([](auto& c) { c.available = kRamEnd - kAvailableBytes; }), nullptr},
      {"its event index beyond the end",
       with([](auto& c) { c.available = kRamEnd - kAvailableBytes + 2; }), "available ring"},
      {"available ring at the last address", with([](auto& c) { c.available = kLast & ~1ULL; }),
       "available ring"},
      {"used ring up to the end", with([](auto& c) { c.used = (kRamEnd - kUsedBytes) & ~3ULL; }),
       nullptr},
      {"its event index beyond the end",
       with([](auto& c) { c.used = ((kRamEnd - kUsedBytes) & ~3ULL) + 4; }), "used ring"},
      {"used ring at the last address", with([](auto& c) { c.used = kLast & ~3ULL; }), "used ring"},
      {"all parts in one place", with([](auto& c) { c.available = c.used = c.descriptors; }),
       nullptr},
  };
  for (const Case& test : cases) {
    const auto queue = Queue::create(memory, test.config, kLimits, false);
    EXPECT_EQ(queue.has_value(), test.error == nullptr) << test.what;
    if (!queue && test.error != nullptr) {
      EXPECT_THAT(queue.error().message(), HasSubstr(test.error)) << test.what;
    }
  }
}

TEST_F(QueueTest, StartsOnlyFromProgressThatRequestsInFlightExplain) {
  struct Case {
    QueueProgress progress;  // next_available, next_used, published
    bool possible;
  };
  const Case cases[] = {
      {{0, 0, 0}, true},           {{8, 0, 0}, true},   // all in flight
      {{9, 0, 0}, false},                               // more than fit
      {{8, 8, 0}, true},                                // all given back, none shown
      {{8, 9, 8}, false},                               // given back what was never taken
      {{7, 8, 8}, false},          {{4, 2, 3}, false},  // shown what was not given back
      {{2, 0xfffe, 0xfffc}, true}, {{0xffff, 0, 0}, false}, {{0x8000, 0x8000, 0x8000}, true},
  };
  for (const auto& [progress, possible] : cases) {
    EXPECT_EQ(Queue::create(memory, kConfig, kLimits, false, progress).has_value(), possible)
        << progress.next_available << ' ' << progress.next_used << ' ' << progress.published;
  }
}

TEST_F(QueueTest, TakesNothingFromAnEmptyRing) {
  Queue queue = make();
  Chain chain;
  EXPECT_FALSE(pops(queue, chain));
  EXPECT_EQ(queue.progress(), QueueProgress{});
}

TEST_F(QueueTest, ResolvesAChainToReadableThenWritableParts) {
  describe(kTable, 3, {kBuffers, 16, VRING_DESC_F_NEXT, 5});
  describe(kTable, 5, {kBuffers + 0x100, 0, VRING_DESC_F_NEXT, 1});
  describe(kTable, 1, {kBuffers + 0x200, 32, VRING_DESC_F_NEXT, 0});
  describe(kTable, 0, {kBuffers + 0x300, 64, VRING_DESC_F_NEXT | VRING_DESC_F_WRITE, 7});
  describe(kTable, 7, {kRamEnd - 1, 1, VRING_DESC_F_WRITE, 3});
  offer(3);
  Queue queue = make();
  Chain chain;
  ASSERT_TRUE(pops(queue, chain));
  ASSERT_EQ(chain.readable().size(), 2U);
  ASSERT_EQ(chain.writable().size(), 2U);
  EXPECT_EQ(chain.readable()[0].iov_base, host(kBuffers));
  EXPECT_EQ(chain.readable()[1].iov_base, host(kBuffers + 0x200));
  EXPECT_EQ(chain.writable()[0].iov_base, host(kBuffers + 0x300));
  EXPECT_EQ(chain.writable()[1].iov_base, host(kRamEnd - 1));
  EXPECT_EQ(chain.readable_bytes(), 48U);
  EXPECT_EQ(chain.writable_bytes(), 65U);
  EXPECT_FALSE(pops(queue, chain));
}

TEST_F(QueueTest, ReusesAChainForTheNextRequest) {
  describe(kTable, 0, {kBuffers, 16, VRING_DESC_F_NEXT, 1});
  describe(kTable, 1, {kBuffers, 16, VRING_DESC_F_WRITE, 0});
  offer(0);
  describe(kTable, 2, {kBuffers + 0x100, 4, 0, 0});
  offer(2);
  Queue queue = make();
  Chain chain;
  ASSERT_TRUE(pops(queue, chain));
  ASSERT_TRUE(pops(queue, chain));
  EXPECT_EQ(chain.readable_bytes(), 4U);
  EXPECT_EQ(chain.writable_bytes(), 0U);
  EXPECT_EQ(chain.readable().size(), 1U);
  EXPECT_TRUE(chain.writable().empty());
}

TEST_F(QueueTest, TakesARequestWithoutAByte) {
  describe(kTable, 0, {kBuffers, 0, VRING_DESC_F_NEXT, 1});
  describe(kTable, 1, {0, 0, VRING_DESC_F_WRITE, 0});
  offer(0);
  Queue queue = make();
  Chain chain;
  ASSERT_TRUE(pops(queue, chain));
  EXPECT_TRUE(chain.readable().empty());
  EXPECT_TRUE(chain.writable().empty());
}

TEST_F(QueueTest, ResolvesAnIndirectTable) {
  // Anywhere in memory, aligned to nothing; the flag WRITE means nothing where it is referred to.
  constexpr std::uint64_t kPlace = kIndirect + 3;
  describe(kPlace, 0, {kBuffers, 8, VRING_DESC_F_NEXT, 2});
  describe(kPlace, 2, {kBuffers + 0x100, 8, VRING_DESC_F_WRITE, 0});
  describe(kTable, 1, {kPlace, 3 * 16, VRING_DESC_F_INDIRECT | VRING_DESC_F_WRITE, 0});
  offer(1);
  Queue queue = make();
  Chain chain;
  ASSERT_TRUE(pops(queue, chain));
  EXPECT_EQ(chain.readable_bytes(), 8U);
  EXPECT_EQ(chain.writable_bytes(), 8U);
}

TEST_F(QueueTest, ResolvesDescriptorsBeforeAnIndirectTable) {
  describe(kTable, 4, {kBuffers, 8, VRING_DESC_F_NEXT, 6});
  describe(kTable, 6, {kIndirect, 16, VRING_DESC_F_INDIRECT, 0});
  describe(kIndirect, 0, {kBuffers + 0x100, 4, VRING_DESC_F_WRITE, 0});
  offer(4);
  Queue queue = make();
  Chain chain;
  ASSERT_TRUE(pops(queue, chain));
  EXPECT_EQ(chain.readable_bytes(), 8U);
  EXPECT_EQ(chain.writable_bytes(), 4U);
}

TEST_F(QueueTest, TakesChainsAsLongAsTheQueueAndNoLonger) {
  for (const unsigned direct : {0U, 1U, 5U}) {
    for (const unsigned length : {unsigned{kSize}, kSize + 1U}) {
      for (unsigned i = 0; i < direct; ++i) {
        describe(kTable, i, {kBuffers, 1, VRING_DESC_F_NEXT, static_cast<std::uint16_t>(i + 1)});
      }
      describe(kTable, direct, {kIndirect, kSize * 16, VRING_DESC_F_INDIRECT, 0});
      const unsigned rest = length - direct;
      for (unsigned i = 0; i < kSize; ++i) {
        const std::uint16_t flags = i + 1 < rest ? VRING_DESC_F_NEXT : 0;
        describe(kIndirect, i, {kBuffers, 1, flags, static_cast<std::uint16_t>((i + 1) % kSize)});
      }
      offer_index(0);
      offer(0);
      Queue queue = make();
      Chain chain;
      EXPECT_EQ(queue.pop(chain).has_value(), length == kSize) << direct << " + " << rest;
    }
  }
}

TEST_F(QueueTest, RefusesBrokenChains) {
  struct Case {
    const char* error;
    std::vector<vring_desc> table;
    std::vector<vring_desc> indirect;
  };
  constexpr std::uint16_t kNext = VRING_DESC_F_NEXT;
  constexpr std::uint16_t kWrite = VRING_DESC_F_WRITE;
  constexpr std::uint16_t kTo = VRING_DESC_F_INDIRECT;
  const Case cases[] = {
      // Loops.
      {"a chain of more than 8", {{kBuffers, 1, kNext, 0}}, {}},
      {"a chain of more than 8", {{kBuffers, 1, kNext, 1}, {kBuffers, 1, kNext, 0}}, {}},
      {"a chain of more than 8", {{kBuffers, 0, kNext, 0}}, {}},
      {"a chain of more than 8", {{kIndirect, 16, kTo, 0}}, {{kBuffers, 1, kNext, 0}}},
      // Indices.
      {"descriptor 8 in a table of 8", {{kBuffers, 1, kNext, 8}}, {}},
      {"descriptor 65535 in a table of 8", {{kBuffers, 1, kNext, 0xffff}}, {}},
      {"descriptor 1 in a table of 1", {{kIndirect, 16, kTo, 0}}, {{kBuffers, 1, kNext, 1}}},
      // Tables.
      {"an indirect table of 0 bytes", {{kIndirect, 0, kTo, 0}}, {}},
      {"an indirect table of 15 bytes", {{kIndirect, 15, kTo, 0}}, {}},
      {"an indirect table of 17 bytes", {{kIndirect, 17, kTo, 0}}, {{kBuffers, 1, 0, 0}}},
      {"an indirect table of 144 bytes", {{kIndirect, 9 * 16, kTo, 0}}, {}},
      {"an indirect table of 4294967280", {{kIndirect, 0xffff'fff0, kTo, 0}}, {}},
      {"an indirect table of 16 bytes", {{kIndirect, 16, kTo | kNext, 1}}, {{kBuffers, 1, 0, 0}}},
      {"an indirect table of 16 bytes", {{kIndirect, 16, kTo, 0}}, {{kIndirect, 16, kTo, 0}}},
      {"not within RAM", {{kRamEnd - 8, 16, kTo, 0}}, {}},
      {"not within RAM", {{0xffff'ffff'ffff'fff0, 16, kTo, 0}}, {}},
      // Buffers.
      {"not within RAM", {{kRamEnd, 1, 0, 0}}, {}},
      {"not within RAM", {{kRam - 1, 2, 0, 0}}, {}},
      {"not within RAM", {{kRamEnd - 1, 2, kWrite, 0}}, {}},
      {"not within RAM", {{0xffff'ffff'ffff'ffff, 2, 0, 0}}, {}},
      {"not within RAM", {{kIndirect, 16, kTo, 0}}, {{0, 1, 0, 0}}},
      {"a request of more than 16384 bytes", {{kBuffers, kMaxBytes + 1, 0, 0}}, {}},
      {"a request of more than 16384 bytes", {{kBuffers, 0xffff'ffff, 0, 0}}, {}},
      {"a request of more than 16384 bytes",
       {{kBuffers, kMaxBytes, kNext, 1}, {kBuffers, 1, kWrite, 0}},
       {}},
      {"a readable descriptor behind a writable one",
       {{kBuffers, 1, kNext | kWrite, 1}, {kBuffers, 1, 0, 0}},
       {}},
  };
  for (const Case& test : cases) {
    for (unsigned i = 0; i < test.table.size(); ++i) describe(kTable, i, test.table[i]);
    for (unsigned i = 0; i < test.indirect.size(); ++i) describe(kIndirect, i, test.indirect[i]);
    offer_index(0);
    offer(0);
    Queue queue = make();
    expect_refused(queue, test.error);
  }
}

TEST_F(QueueTest, KeepsToWhatItHasReadAndChecked) {
  describe(kIndirect, 0, {kBuffers, 16, VRING_DESC_F_NEXT, 1});
  describe(kIndirect, 1, {kBuffers + 0x100, 32, VRING_DESC_F_WRITE, 0});
  describe(kTable, 0, {kIndirect, 32, VRING_DESC_F_INDIRECT, 0});
  offer_index(0);
  offer(0);
  Queue queue = make();
  Chain chain;
  ASSERT_TRUE(pops(queue, chain));
  // The driver thinks again, when the device has its request.
  for (const auto table : {kTable, kIndirect}) {
    for (unsigned i = 0; i < 2; ++i) describe(table, i, {kRamEnd - 1, 0xffff'ffff, 0, 0xffff});
  }
  poke(kAvailable + 4, std::uint16_t{0xffff});
  ASSERT_EQ(chain.readable().size(), 1U);
  EXPECT_EQ(chain.readable()[0].iov_base, host(kBuffers));
  EXPECT_EQ(chain.readable()[0].iov_len, 16U);
  ASSERT_EQ(chain.writable().size(), 1U);
  EXPECT_EQ(chain.writable()[0].iov_len, 32U);
  EXPECT_EQ(chain.writable()[0].iov_base, host(kBuffers + 0x100));
  queue.push(chain, 32);
  EXPECT_TRUE(queue.publish());
  EXPECT_EQ(used_element(0).id, 0U);
}

TEST_F(QueueTest, RefusesAHeadOutsideOfTheTable) {
  for (const std::uint16_t head : {kSize, std::uint16_t{0xffff}}) {
    offer_index(0);
    offer(head);
    Queue queue = make();
    expect_refused(queue, "in a table of 8");
  }
}

TEST_F(QueueTest, RefusesAnIndexThatRunsAhead) {
  Queue queue = make();
  offer_index(kSize + 1);
  expect_refused(queue, "9 requests");
  offer_index(0x8000);
  expect_refused(queue, "32768 requests");
}

TEST_F(QueueTest, RefusesAnIndexThatGoesBack) {
  Queue queue = make();
  for (std::uint16_t head = 0; head < 4; ++head) offer_buffer(head);
  Chain chain;
  for (int i = 0; i < 4; ++i) ASSERT_TRUE(pops(queue, chain));
  offer_index(3);
  expect_refused(queue, "65535 requests");
}

TEST_F(QueueTest, HasNoMoreRequestsInFlightThanItHoldsUntilTheDriverSeesThemComeBack) {
  Queue queue = make();
  std::vector<Chain> chains(kSize);
  for (std::uint16_t head = 0; head < kSize; ++head) offer_buffer(head);
  for (Chain& chain : chains) ASSERT_TRUE(pops(queue, chain));
  // A driver has no descriptors left, so that one more is a lie, pushed or not.
  offer_buffer(0);
  expect_refused(queue, "1 requests");
  queue.push(chains[0], 0);
  expect_refused(queue, "1 requests");
  (void)queue.publish();
  Chain chain;
  EXPECT_TRUE(pops(queue, chain));
}

TEST_F(QueueTest, GivesARequestThatWasUndoneAgain) {
  Queue queue = make();
  for (std::uint16_t head = 0; head < kSize; ++head) offer_buffer(head);
  Chain chain;
  for (int i = 0; i < kSize; ++i) ASSERT_TRUE(pops(queue, chain));
  for (int i = 0; i < kSize; ++i) queue.undo_pop();
  EXPECT_EQ(queue.progress(), QueueProgress{});
  EXPECT_TRUE(queue.enable_kicks());
  ASSERT_TRUE(pops(queue, chain));
  EXPECT_EQ(chain.writable()[0].iov_base, host(kBuffers));
}

TEST_F(QueueTest, UndoesAcrossTheEndOfTheIndex) {
  Queue queue = make(false, {0xffff, 0xffff, 0xffff});
  offer_buffer(2);
  offer_buffer(5);
  Chain chain;
  ASSERT_TRUE(pops(queue, chain));
  ASSERT_TRUE(pops(queue, chain));
  EXPECT_EQ(queue.progress().next_available, 1);
  queue.undo_pop();
  queue.undo_pop();
  EXPECT_EQ(queue.progress().next_available, 0xffff);
  ASSERT_TRUE(pops(queue, chain));
  EXPECT_EQ(chain.writable()[0].iov_base, host(kBuffers + 0x200));
}

}  // namespace
}  // namespace vmm::virtio
