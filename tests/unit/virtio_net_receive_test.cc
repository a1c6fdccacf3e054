#include "devices/virtio/ring.h"

#include "devices/virtio/net.h"
#include "net_rig.h"

namespace vmm::virtio {
namespace {

class NetReceiveTest : public NetTest {
 protected:
  static constexpr unsigned kBuffers = VirtioRig::kQueueSize;

  void SetUp() override { attach(); }
  std::uint64_t without_merging() {
    return rig.offered() & ~(bit(VIRTIO_NET_F_MRG_RXBUF) | bit(VIRTIO_RING_F_EVENT_IDX));
  }
  void add_and_kick(unsigned count, std::uint32_t size) {
    add_buffers(count, size);
    rig.kick(kRx);
    ASSERT_TRUE(rig.loop.settle());
  }
  void deliver(const std::string& frame) {
    port.send(frame);
    ASSERT_TRUE(rig.loop.settle());
  }
};

TEST_F(NetReceiveTest, PutsAFrameIntoABuffer) {
  rig.start();
  add_and_kick(2, 2048);
  const auto frame = make_frame(1514);
  deliver(frame);
  const auto used = rig.take_used(kRx);
  ASSERT_TRUE(used);
  EXPECT_EQ(used->len, frame.size());
  EXPECT_EQ(rig.peek<std::uint16_t>(place(used->id) + 10), 1U) << "num_buffers";
  EXPECT_EQ(rig.peek_text(place(used->id) + kHeaderBytes, 1514), frame.substr(kHeaderBytes));
  EXPECT_TRUE(rig.is_dirty(place(used->id)));
  EXPECT_FALSE(rig.is_dirty(place(used->id) + 0x8000)) << "the buffer that was not needed";
  EXPECT_EQ(rig.edge.count, 1);
  EXPECT_EQ(counter("rx_packets"), 1U);
  EXPECT_EQ(counter("rx_bytes"), 1514U);
}

TEST_F(NetReceiveTest, ReceivesManyFramesWithOneInterrupt) {
  rig.start();
  add_and_kick(kBuffers, 2048);
  for (unsigned i = 0; i < kBuffers; ++i) port.send(make_frame(100, i));
  ASSERT_TRUE(rig.loop.settle());
  for (unsigned i = 0; i < kBuffers; ++i) {
    const auto received = take_frame();
    ASSERT_TRUE(received) << i;
    EXPECT_EQ(received->frame, make_frame(100, i));
  }
  EXPECT_EQ(rig.edge.count, 1);
}

TEST_F(NetReceiveTest, FramesWaitInThePortWhileThereAreNoBuffers) {
  rig.start();
  for (unsigned i = 0; i < 5; ++i) port.send(make_frame(100, i));
  EXPECT_FALSE(rig.loop.turn()) << "the port is watched although nothing can be received";
  EXPECT_EQ(rig.take_used(kRx), std::nullopt);
  add_and_kick(3, 2048);
  for (unsigned i = 0; i < 3; ++i) EXPECT_EQ(take_frame().value().frame, make_frame(100, i));
  EXPECT_EQ(take_frame(), std::nullopt);
  EXPECT_FALSE(rig.loop.turn());
  EXPECT_EQ(counter("rx_no_buffers"), 2U);
  add_and_kick(3, 2048);
  for (unsigned i = 3; i < 5; ++i) EXPECT_EQ(take_frame().value().frame, make_frame(100, i));
  EXPECT_EQ(counter("rx_dropped"), 0U);
}

TEST_F(NetReceiveTest, MergesBuffersForALongFrame) {
  rig.start();
  // The first comes unexpected, the second finds all buffers ready.
  for (unsigned seed = 1; seed <= 2; ++seed) {
    add_and_kick(kBuffers, 8000);
    const auto frame = make_frame(60'000, seed);
    deliver(frame);
    const auto received = take_frame();
    ASSERT_TRUE(received);
    EXPECT_EQ(received->buffers, 8U);
    EXPECT_TRUE(received->frame == frame) << seed;
    EXPECT_EQ(take_frame(), std::nullopt);
    for (unsigned i = 0; i < 8; ++i) EXPECT_TRUE(rig.is_dirty(place(i))) << i;
    // What was not needed takes the next frames.
    for (unsigned i = 0; i < 8; ++i) {
      deliver(make_frame(100, i));
      EXPECT_EQ(take_frame().value().frame, make_frame(100, i));
    }
  }
  EXPECT_EQ(counter("rx_dropped"), 0U);
}

TEST_F(NetReceiveTest, TakesTheLongestFrame) {
  rig.start();
  add_and_kick(kBuffers, 8000);
  const auto frame = make_frame(NetReceiver::kMaxFrame - kHeaderBytes);
  deliver(frame);
  EXPECT_TRUE(take_frame().value().frame == frame);
  deliver(make_frame(NetReceiver::kMaxFrame - kHeaderBytes + 1));
  EXPECT_EQ(take_frame(), std::nullopt);
  EXPECT_EQ(counter("rx_dropped"), 1U);
}

TEST_F(NetReceiveTest, FillsBuffersExactly) {
  rig.start();
  add_and_kick(4, 1000);
  deliver(make_frame(988));
  EXPECT_EQ(take_frame().value().buffers, 1U);
  deliver(make_frame(1988));
  EXPECT_EQ(take_frame().value().buffers, 2U);
  add_and_kick(1, 1000);
  deliver(make_frame(1989));
  EXPECT_EQ(take_frame(), std::nullopt) << "two buffers are there, three are needed";
  add_and_kick(1, 1000);
  EXPECT_EQ(take_frame().value().buffers, 3U);
}

TEST_F(NetReceiveTest, ALongFrameWaitsForMoreBuffers) {
  rig.start();
  add_and_kick(3, 8000);
  const auto frame = make_frame(60'000);
  deliver(frame);
  deliver(make_frame(200));
  EXPECT_EQ(take_frame(), std::nullopt);
  add_and_kick(3, 8000);
  EXPECT_EQ(take_frame(), std::nullopt);
  EXPECT_FALSE(rig.loop.turn());
  add_and_kick(3, 8000);
  EXPECT_TRUE(take_frame().value().frame == frame);
  EXPECT_EQ(take_frame().value().frame, make_frame(200));
  EXPECT_EQ(counter("rx_dropped"), 0U);
}

TEST_F(NetReceiveTest, DropsAFrameThatAllBuffersTogetherCannotHold) {
  rig.start();
  add_and_kick(kBuffers, 1000);
  deliver(make_frame(60'000));
  EXPECT_EQ(take_frame(), std::nullopt);
  EXPECT_EQ(counter("rx_dropped"), 1U);
  deliver(make_frame(100));
  EXPECT_EQ(take_frame().value().frame, make_frame(100));
}

TEST_F(NetReceiveTest, WithoutMergingAFrameFitsOneBufferOrIsDropped) {
  rig.start(without_merging());
  add_and_kick(3, 1526);
  deliver(make_frame(1515));
  EXPECT_EQ(take_frame(), std::nullopt);
  EXPECT_EQ(counter("rx_dropped"), 1U);
  deliver(make_frame(1514));
  const auto received = take_frame();
  ASSERT_TRUE(received);
  EXPECT_EQ(received->buffers, 1U);
  EXPECT_EQ(received->frame, make_frame(1514));
}

TEST_F(NetReceiveTest, WithoutMergingABufferOfManyPartsTakesALongFrame) {
  rig.start(without_merging());
  std::vector<Segment> parts{{kRigBuffers, 7, true}, {kRigBuffers + 7, 5, true}};
  for (unsigned i = 0; i < 9; ++i) parts.push_back({kRigBuffers + 12 + i * 7000U, 7000, true});
  const auto frame = make_frame(60'000);
  rig.submit(kRx, parts);
  deliver(frame);
  const auto used = rig.take_used(kRx);
  ASSERT_TRUE(used);
  EXPECT_EQ(used->len, frame.size());
  EXPECT_EQ(rig.peek<std::uint16_t>(kRigBuffers + 10), 1U) << "num_buffers, in the second part";
  EXPECT_TRUE(rig.peek_text(kRigBuffers + 12, 60'000) == frame.substr(kHeaderBytes));
}

TEST_F(NetReceiveTest, ExpectsShortFramesAgainAfterAWhile) {
  rig.start();
  add_and_kick(8, 8000);
  deliver(make_frame(8000));
  EXPECT_EQ(take_frame().value().buffers, 2U);
  for (unsigned i = 0; i < 200; ++i) {
    add_and_kick(1, 8000);
    deliver(make_frame(64, i));
    EXPECT_EQ(take_frame().value().frame, make_frame(64, i)) << i;
  }
  add_and_kick(2, 8000);
  const auto frame = make_frame(20'000);
  deliver(frame);
  EXPECT_TRUE(take_frame().value().frame == frame);
}

TEST_F(NetReceiveTest, ABufferTooSmallForTheHeaderNeedsAReset) {
  for (const std::uint32_t size : {0U, 11U}) {
    rig.write(VIRTIO_MMIO_STATUS, 0);
    rig.start();
    port.send(make_frame(100));
    add_and_kick(1, size);
    EXPECT_TRUE(rig.needs_reset()) << size;
    EXPECT_FALSE(rig.loop.turn()) << "the port is still watched";
  }
}

TEST_F(NetReceiveTest, ABufferOutsideOfRamNeedsAResetAfterWhichAllIsWell) {
  rig.start();
  add_and_kick(1, 2048);
  rig.submit(kRx, {{0x1000, 2048, true}});
  deliver(make_frame(100));
  EXPECT_EQ(take_frame().value().frame, make_frame(100));
  deliver(make_frame(101));
  EXPECT_TRUE(rig.needs_reset());
  EXPECT_FALSE(rig.loop.turn());
  rig.write(VIRTIO_MMIO_STATUS, 0);
  rig.start();
  add_and_kick(1, 2048);
  deliver(make_frame(102));
  EXPECT_EQ(take_frame().value().frame, make_frame(102));
}

TEST_F(NetReceiveTest, AResetLeavesNothingOfTheDriverBefore) {
  rig.start();
  add_and_kick(3, 8000);
  deliver(make_frame(60'000));
  port.send(make_frame(200));
  rig.write(VIRTIO_MMIO_STATUS, 0);
  port.send(make_frame(300));
  EXPECT_FALSE(rig.loop.turn());
  rig.start();
  add_and_kick(2, 2048);
  EXPECT_EQ(take_frame(), std::nullopt);
  EXPECT_EQ(counter("rx_dropped"), 3U);
  deliver(make_frame(400));
  EXPECT_EQ(take_frame().value().frame, make_frame(400));
}

TEST_F(NetReceiveTest, ALostPortTakesTheLinkDown) {
  rig.start();
  add_and_kick(2, 2048);
  port.network = Fd();
  ASSERT_TRUE(rig.loop.settle()) << "the lost port keeps the loop busy";
  EXPECT_EQ(net_status(), 0U);
  EXPECT_EQ(rig.read(VIRTIO_MMIO_INTERRUPT_STATUS), VIRTIO_MMIO_INT_CONFIG);
  rig.transport->quiesce();
  rig.transport->resume();
  ASSERT_TRUE(rig.loop.settle());
  EXPECT_EQ(net_status(), 0U);
}

// --- Event index ---

class NetEventIndexTest : public NetReceiveTest {
 protected:
  void SetUp() override {
    attach();
    rig.start(rig.offered());
  }
  // Kicks only where the device has asked for it, as a driver does.
  void kick_if_wanted(unsigned queue) {
    const auto at = rig.peek<std::uint16_t>(VirtioRig::used(queue) + 4 + kBuffers * 8);
    const auto now = rig.peek<std::uint16_t>(VirtioRig::available(queue) + 2);
    const auto before = std::exchange(kicked_at_[queue], now);
    if (static_cast<std::uint16_t>(now - at - 1) < static_cast<std::uint16_t>(now - before)) {
      rig.kick(queue);
      ++kicks_;
    }
    ASSERT_TRUE(rig.loop.settle());
  }
  void want_interrupt_at(unsigned queue, std::uint16_t index) {
    rig.poke(VirtioRig::available(queue) + 4 + kBuffers * 2, index);
  }
  std::array<std::uint16_t, 3> kicked_at_{};
  unsigned kicks_ = 0;
};

TEST_F(NetEventIndexTest, NothingIsMissedAndKicksAreFew) {
  for (unsigned i = 0; i < 300; ++i) {
    for (unsigned frame = 0; frame < 4; ++frame) add_frame(make_frame(100, i + frame), frame);
    kick_if_wanted(kTx);
    for (unsigned frame = 0; frame < 4; ++frame) {
      EXPECT_EQ(port.receive(), make_frame(100, i + frame));
      EXPECT_TRUE(rig.take_used(kTx));
    }
  }
  EXPECT_EQ(kicks_, 300U);
  kicks_ = 0;
  add_buffers(8, 2048);
  kick_if_wanted(kRx);
  EXPECT_EQ(kicks_, 1U) << "buffers were waited for";
  for (unsigned i = 0; i < 300; ++i) {
    deliver(make_frame(100, i));
    EXPECT_EQ(take_frame().value().frame, make_frame(100, i)) << i;
    add_buffers(1, 2048);
    kick_if_wanted(kRx);
  }
  EXPECT_EQ(kicks_, 1U) << "buffers were there";
}

TEST_F(NetEventIndexTest, EveryCommandIsAnswered) {
  for (unsigned round = 0; round < 5; ++round) {
    // As many as are handled in one turn, and then some.
    for (unsigned i = 0; i < kBuffers; ++i) rig.add(kControl, {{kRigBuffers, 1, true}});
    kick_if_wanted(kControl);
    for (unsigned i = 0; i < kBuffers; ++i) EXPECT_TRUE(rig.take_used(kControl)) << i;
    rig.add(kControl, {{kRigBuffers, 1, true}});
    kick_if_wanted(kControl);
    EXPECT_TRUE(rig.take_used(kControl)) << round;
  }
}

TEST_F(NetEventIndexTest, BuffersThatRunOutAreAskedFor) {
  for (unsigned i = 0; i < 100; ++i) {
    add_buffers(2, 2048);
    kick_if_wanted(kRx);
    for (unsigned frame = 0; frame < 3; ++frame) port.send(make_frame(100, i * 3 + frame));
    ASSERT_TRUE(rig.loop.settle());
    add_buffers(1, 2048);
    kick_if_wanted(kRx);
    for (unsigned frame = 0; frame < 3; ++frame) {
      EXPECT_EQ(take_frame().value().frame, make_frame(100, i * 3 + frame));
    }
  }
}

TEST_F(NetEventIndexTest, InterruptsOnlyWhereTheDriverWantsOne) {
  add_buffers(8, 2048);
  kick_if_wanted(kRx);
  want_interrupt_at(kRx, 3);
  for (unsigned i = 0; i < 3; ++i) deliver(make_frame(100, i));
  EXPECT_EQ(rig.edge.count, 0);
  deliver(make_frame(100, 3));
  EXPECT_EQ(rig.edge.count, 1);
  deliver(make_frame(100, 4));
  EXPECT_EQ(rig.edge.count, 1);
}

}  // namespace
}  // namespace vmm::virtio
