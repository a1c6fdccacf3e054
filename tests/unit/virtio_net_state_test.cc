#include "net_rig.h"

namespace vmm::virtio {
namespace {

class NetStateTest : public NetTest {
 protected:
  void SetUp() override { attach(); }
  std::vector<std::byte> stop() {
    rig.transport->quiesce();
    return saved(*rig.transport);
  }
  // Where the device's own fields lie, counted from the end of a saved state.
  static constexpr std::size_t kOffloads = 8;
  static constexpr std::size_t kAnnounce = kOffloads + 1;
  static constexpr std::size_t kLink = kAnnounce + 1;
  static constexpr std::size_t kMtu = kLink + 2;
  static constexpr std::size_t kMac = kMtu + 6;
};

TEST_F(NetStateTest, MovesBeforeTheDriverRuns) {
  move(stop());
  rig.transport->resume();
  rig.start();
  add_buffers(1, 2048);
  rig.kick(kRx);
  port.send(make_frame(100));
  ASSERT_TRUE(rig.loop.settle());
  // What waited before the driver ran is not for it; what comes now is.
  port.send(make_frame(200));
  ASSERT_TRUE(rig.loop.settle());
  EXPECT_TRUE(take_frame());
}

TEST_F(NetStateTest, MovesWithBuffersAndFramesThatWait) {
  rig.start();
  add_buffers(10, 8000);
  rig.kick(kRx);
  port.send(make_frame(60'000));
  ASSERT_TRUE(rig.loop.settle());
  EXPECT_TRUE(take_frame());
  // Two buffers are left and held by the device.
  const auto state = stop();
  port.send(make_frame(100, 1));
  port.send(make_frame(100, 2));
  EXPECT_FALSE(rig.loop.turn()) << "read while quiet";
  move(state);
  port.offload_set = 0;
  rig.transport->resume();
  ASSERT_TRUE(rig.loop.settle());
  EXPECT_EQ(take_frame().value().frame, make_frame(100, 1));
  EXPECT_EQ(take_frame().value().frame, make_frame(100, 2));
  EXPECT_FALSE(rig.needs_reset());
}

TEST_F(NetStateTest, GoesOnAfterAStopWithoutAMove) {
  rig.start();
  add_buffers(4, 2048);
  rig.kick(kRx);
  ASSERT_TRUE(rig.loop.settle());
  for (unsigned i = 0; i < 4; ++i) {
    rig.transport->quiesce();
    port.send(make_frame(100, i));
    ASSERT_TRUE(rig.loop.settle());
    EXPECT_EQ(take_frame(), std::nullopt);
    rig.transport->resume();
    ASSERT_TRUE(rig.loop.settle());
    EXPECT_EQ(take_frame().value().frame, make_frame(100, i));
  }
}

TEST_F(NetStateTest, AFrameThatWaitsForBuffersIsDroppedByAStop) {
  rig.start();
  add_buffers(2, 8000);
  rig.kick(kRx);
  port.send(make_frame(60'000));
  ASSERT_TRUE(rig.loop.settle());
  const auto state = stop();
  EXPECT_EQ(counter("rx_dropped"), 1U);
  move(state);
  rig.transport->resume();
  port.send(make_frame(100));
  ASSERT_TRUE(rig.loop.settle());
  EXPECT_EQ(take_frame().value().frame, make_frame(100));
}

TEST_F(NetStateTest, MarksWhatHasArrivedOfAFrameThatIsDropped) {
  for (const bool by_reset : {false, true}) {
    rig.start();
    add_buffers(3, 0x800);
    rig.kick(kRx);
    ASSERT_TRUE(rig.loop.settle());
    rig.memory.device_dirty().clear();
    port.send(make_frame(8000));
    ASSERT_TRUE(rig.loop.settle());
    if (by_reset) {
      rig.write(VIRTIO_MMIO_STATUS, 0);
    } else {
      rig.transport->quiesce();
    }
    // It was given room for a short frame.
    EXPECT_TRUE(rig.is_dirty(place(0)));
    EXPECT_FALSE(rig.is_dirty(place(2)));
    rig.transport->resume();
    rig.write(VIRTIO_MMIO_STATUS, 0);
  }
}

TEST_F(NetStateTest, MovesWithFramesThatWaitToBeSent) {
  rig.start();
  for (unsigned i = 0; i < VirtioRig::kQueueSize; ++i) add_frame(make_frame(60'000, i), i);
  rig.kick(kTx);
  ASSERT_TRUE(rig.loop.settle());
  move(stop());
  rig.transport->resume();
  for (unsigned i = 0; i < VirtioRig::kQueueSize; ++i) {
    ASSERT_TRUE(rig.loop.settle());
    rig.loop.advance(std::chrono::milliseconds(1));
    EXPECT_TRUE(port.receive() == make_frame(60'000, i)) << i;
  }
  EXPECT_EQ(port.receive(), std::nullopt);
}

TEST_F(NetStateTest, MovesTheOffloadsThatTheDriverHasChosen) {
  rig.start();
  rig.poke_text(kRigBuffers, std::string_view("\x05\x00\x82\x00\x00\x00\x00\x00\x00\x00", 10));
  rig.submit(kControl, {{kRigBuffers, 10}, {kRigBuffers + 0x100, 1, true}});
  EXPECT_EQ(port.offload_set, TUN_F_CSUM | TUN_F_TSO4);
  const auto state = stop();
  rig.transport.reset();
  port.offload_set = 0;
  move(state);
  EXPECT_EQ(port.offload_set, TUN_F_CSUM | TUN_F_TSO4);
}

// Only a peer that lies says so; it is kept, and of no effect.
TEST_F(NetStateTest, UsesNoOffloadThatTheDriverDoesNotKnow) {
  rig.start(bit(VIRTIO_NET_F_GUEST_CSUM));
  auto state = stop();
  const std::uint64_t offloads = bit(VIRTIO_NET_F_GUEST_CSUM) | bit(VIRTIO_NET_F_GUEST_TSO4);
  std::memcpy(&state[state.size() - kOffloads], &offloads, sizeof offloads);
  move(state);
  EXPECT_EQ(port.offload_set, unsigned{TUN_F_CSUM});
}

TEST_F(NetStateTest, MovesAnAnnouncementThatTheDriverHasNotMade) {
  rig.start();
  net->announce();
  move(stop());
  EXPECT_EQ(net_status(), VIRTIO_NET_S_LINK_UP | VIRTIO_NET_S_ANNOUNCE);
}

TEST_F(NetStateTest, MovesAfterTheDriverBrokeTheProtocol) {
  rig.start();
  rig.submit(kTx, {{0x1000, 100}});
  ASSERT_TRUE(rig.needs_reset());
  move(stop());
  rig.transport->resume();
  ASSERT_TRUE(rig.loop.settle());
  EXPECT_TRUE(rig.needs_reset());
  rig.write(VIRTIO_MMIO_STATUS, 0);
  rig.start();
  rig.submit(kTx, {{kRigBuffers, 100}});
  EXPECT_TRUE(port.receive());
}

TEST_F(NetStateTest, ALinkThatWasDownComesUpWhereThePortWorks) {
  rig.start();
  auto state = stop();
  state[state.size() - kLink] = std::byte{0};
  move(state);
  EXPECT_EQ(net_status(), 0U);
  rig.transport->resume();
  EXPECT_EQ(net_status(), VIRTIO_NET_S_LINK_UP);
  EXPECT_EQ(rig.read(VIRTIO_MMIO_INTERRUPT_STATUS), VIRTIO_MMIO_INT_CONFIG);
}

TEST_F(NetStateTest, RefusesHostileState) {
  rig.start();
  const auto state = stop();
  rig.transport.reset();
  rig.transport = MmioTransport::create(make_device(), rig.memory, rig.edge, rig.loop).value();
  MmioTransport& transport = *rig.transport;
  expect_hostile_bytes_refused(transport, state);
  expect_field_refused<std::uint8_t>(transport, state, state.size() - kMac, 0x54);
  expect_field_refused<std::uint16_t>(transport, state, state.size() - kMtu, 9000);
  expect_field_refused<std::uint8_t>(transport, state, state.size() - kLink, 2);
  expect_field_refused<std::uint8_t>(transport, state, state.size() - kAnnounce, 2);
  expect_field_refused<std::uint64_t>(transport, state, state.size() - kOffloads,
                                      bit(VIRTIO_NET_F_CSUM));
  EXPECT_TRUE(restored(transport, state));
}

TEST_F(NetStateTest, RefusesADriverThatTakesWhatThePortHereCannotDo) {
  rig.start();
  const auto state = stop();
  rig.transport.reset();
  port.offloads = TUN_F_CSUM;
  rig.transport = MmioTransport::create(make_device(), rig.memory, rig.edge, rig.loop).value();
  EXPECT_FALSE(restored(*rig.transport, state));
}

}  // namespace
}  // namespace vmm::virtio
