#include "devices/virtio/net.h"

#include "net_rig.h"

namespace vmm::virtio {
namespace {

TEST_F(NetTest, OffersWhatItsPortCanDo) {
  attach();
  const std::uint64_t guest = bit(VIRTIO_NET_F_GUEST_CSUM) | bit(VIRTIO_NET_F_GUEST_TSO4) |
                              bit(VIRTIO_NET_F_GUEST_TSO6) | bit(VIRTIO_NET_F_GUEST_ECN) |
                              bit(VIRTIO_NET_F_GUEST_UFO);
  EXPECT_EQ(rig.offered() & guest, guest);
  EXPECT_EQ(rig.offered() & bit(VIRTIO_NET_F_MTU), 0U);

  port.offloads = TUN_F_CSUM | TUN_F_TSO4;
  port.mtu = 9000;
  attach();
  EXPECT_EQ(rig.offered() & guest, bit(VIRTIO_NET_F_GUEST_CSUM) | bit(VIRTIO_NET_F_GUEST_TSO4));
  EXPECT_EQ(rig.offered() & bit(VIRTIO_NET_F_HOST_UFO), 0U);
  EXPECT_NE(rig.offered() & bit(VIRTIO_NET_F_HOST_TSO6), 0U);
  EXPECT_NE(rig.offered() & bit(VIRTIO_NET_F_MTU), 0U);
  EXPECT_EQ(mmio_read(*rig.transport, VIRTIO_MMIO_CONFIG + 10, 2), 9000U);
}

TEST_F(NetTest, ShowsItsAddressAndThatTheLinkIsUp) {
  attach();
  EXPECT_EQ(rig.read(VIRTIO_MMIO_DEVICE_ID), 1U);
  for (unsigned i = 0; i < 6; ++i) {
    EXPECT_EQ(mmio_read(*rig.transport, VIRTIO_MMIO_CONFIG + i, 1), test_mac().bytes()[i]);
  }
  EXPECT_EQ(net_status(), VIRTIO_NET_S_LINK_UP);
  EXPECT_EQ(mmio_read(*rig.transport, VIRTIO_MMIO_CONFIG + 0xf8, 8), 0U);
  mmio_write(*rig.transport, VIRTIO_MMIO_CONFIG, 0xff, 1);
  EXPECT_EQ(mmio_read(*rig.transport, VIRTIO_MMIO_CONFIG, 1), 0x52U);
}

TEST_F(NetTest, HasThePortPrepareFramesForTheDriver) {
  attach();
  rig.start();
  EXPECT_EQ(port.offload_set, kAllOffloads);
  rig.write(VIRTIO_MMIO_STATUS, 0);
  EXPECT_EQ(port.offload_set, 0U);
  rig.start(bit(VIRTIO_NET_F_GUEST_CSUM) | bit(VIRTIO_NET_F_GUEST_TSO6));
  EXPECT_EQ(port.offload_set, TUN_F_CSUM | TUN_F_TSO6);
}

TEST_F(NetTest, LeavesOutWhatDependsOnWhatTheDriverDoesNotTake) {
  attach();
  rig.start(bit(VIRTIO_NET_F_GUEST_TSO4));
  EXPECT_EQ(port.offload_set, 0U);
  rig.write(VIRTIO_MMIO_STATUS, 0);
  rig.start(bit(VIRTIO_NET_F_GUEST_CSUM) | bit(VIRTIO_NET_F_GUEST_ECN));
  EXPECT_EQ(port.offload_set, unsigned{TUN_F_CSUM});
}

// --- Sending ---

TEST_F(NetTest, SendsAFrameFromAllPartsOfItsChain) {
  attach();
  rig.start();
  const auto frame = make_frame(1000);
  rig.poke_text(kRigBuffers, frame);
  const auto head =
      rig.submit(1, {{kRigBuffers, 5}, {kRigBuffers + 5, 300}, {kRigBuffers + 305, 707}});
  EXPECT_EQ(port.receive(), frame);
  EXPECT_EQ(port.receive(), std::nullopt);
  const auto used = rig.take_used(kTx);
  ASSERT_TRUE(used);
  EXPECT_EQ(used->id, head);
  EXPECT_EQ(used->len, 0U);
  EXPECT_EQ(rig.edge.count, 1);
  EXPECT_EQ(counter("tx_packets"), 1U);
  EXPECT_EQ(counter("tx_bytes"), 1000U);
}

TEST_F(NetTest, SendsManyFramesWithOneInterrupt) {
  attach();
  rig.start();
  for (unsigned i = 0; i < VirtioRig::kQueueSize; ++i) add_frame(make_frame(100, i), i);
  rig.kick(kTx);
  ASSERT_TRUE(rig.loop.settle());
  for (unsigned i = 0; i < VirtioRig::kQueueSize; ++i)
    EXPECT_EQ(port.receive(), make_frame(100, i));
  EXPECT_EQ(rig.edge.count, 1);
}

TEST_F(NetTest, DropsWhatCannotBeAFrame) {
  attach();
  rig.start();
  rig.submit(kTx, {{kRigBuffers, 0}});
  rig.submit(kTx, {{kRigBuffers, 11}});
  rig.submit(kTx, {{kRigBuffers, kHeaderBytes + 13}});
  rig.submit(kTx, {{kRigBuffers, 64, true}});
  rig.submit(kTx, {{kRigBuffers, NetReceiver::kMaxFrame + 1}});
  for (int i = 0; i < 5; ++i) EXPECT_TRUE(rig.take_used(kTx)) << i;
  EXPECT_EQ(counter("tx_dropped"), 5U);
  EXPECT_EQ(counter("tx_packets"), 0U);
  EXPECT_EQ(port.receive(), std::nullopt);
  rig.submit(kTx, {{kRigBuffers, kHeaderBytes + 14}});
  rig.submit(kTx, {{kRigBuffers, NetReceiver::kMaxFrame}});
  EXPECT_EQ(counter("tx_packets"), 2U);
  EXPECT_FALSE(rig.needs_reset());
}

TEST_F(NetTest, AChainThatIsTooLongNeedsAReset) {
  attach();
  rig.start();
  rig.submit(kTx, {{kRigBuffers, 200 << 10}, {kRigBuffers, 200 << 10}});
  EXPECT_TRUE(rig.needs_reset());
}

TEST_F(NetTest, WaitsWhereThePortIsBusyAndLosesNothing) {
  attach();
  rig.start();
  constexpr unsigned kFrames = VirtioRig::kQueueSize;
  for (unsigned i = 0; i < kFrames; ++i) add_frame(make_frame(60'000, i), i);
  rig.kick(kTx);
  ASSERT_TRUE(rig.loop.settle());
  ASSERT_LT(counter("tx_packets"), kFrames) << "the socket takes all of it at once";
  // A kick meanwhile changes nothing.
  rig.kick(kTx);
  ASSERT_TRUE(rig.loop.settle());
  for (unsigned i = 0; i < kFrames; ++i) {
    EXPECT_EQ(port.receive(), make_frame(60'000, i)) << i;
    rig.loop.advance(std::chrono::milliseconds(1));
  }
  EXPECT_EQ(counter("tx_packets"), kFrames);
  EXPECT_EQ(counter("tx_dropped"), 0U);
}

TEST_F(NetTest, ABusyPortKeepsNeitherResetNorStopWaiting) {
  attach();
  rig.start();
  for (unsigned i = 0; i < VirtioRig::kQueueSize; ++i) add_frame(make_frame(60'000, i), i);
  rig.kick(kTx);
  ASSERT_TRUE(rig.loop.settle());
  const auto sent = counter("tx_packets");
  rig.transport->quiesce();
  unsigned received = 0;
  while (port.receive()) ++received;
  EXPECT_EQ(received, sent);
  rig.loop.advance(std::chrono::seconds(1));
  EXPECT_EQ(port.receive(), std::nullopt) << "sent while quiet";
  rig.transport->resume();
  ASSERT_TRUE(rig.loop.settle());
  EXPECT_GT(counter("tx_packets"), sent);
  rig.write(VIRTIO_MMIO_STATUS, 0);
  while (port.receive()) continue;
  rig.loop.advance(std::chrono::seconds(1));
  EXPECT_EQ(port.receive(), std::nullopt) << "sent after a reset";
}

TEST_F(NetTest, ABusyPortIsLeftAloneOnceTheDriverBrokeTheProtocol) {
  attach();
  rig.start();
  for (unsigned i = 0; i < VirtioRig::kQueueSize; ++i) add_frame(make_frame(60'000, i), i);
  rig.kick(kTx);
  ASSERT_TRUE(rig.loop.settle());
  rig.submit(kRx, {{0x1000, 2048, true}});
  ASSERT_TRUE(rig.needs_reset());
  while (port.receive()) continue;
  rig.loop.advance(std::chrono::seconds(1));
  EXPECT_EQ(port.receive(), std::nullopt);
}

TEST(NetErrorTest, CountsAndDropsFramesThatThePortRefuses) {
  FakePort port("/dev/full");
  VirtioRig rig;
  auto device = std::make_unique<Net>("net.lan", port, test_mac(), rig.loop);
  const Net& net = *device;
  rig.attach(std::move(device));
  rig.start();
  rig.submit(1, {{kRigBuffers, 100}});
  EXPECT_TRUE(rig.take_used(1));
  EXPECT_FALSE(rig.needs_reset());
  EXPECT_EQ(net.counters()[6].name, "tx_dropped");
  EXPECT_EQ(net.counters()[6].value, 1U);
}

// --- Control queue ---

class NetControlTest : public NetTest {
 protected:
  // Gives a command and returns the answer.
  std::optional<std::uint8_t> command(std::string_view bytes) {
    rig.poke_text(kRigBuffers, bytes);
    rig.poke<std::uint8_t>(kRigBuffers + 0x1000, 0xee);
    rig.submit(kControl, {{kRigBuffers, static_cast<std::uint32_t>(bytes.size())},
                          {kRigBuffers + 0x1000, 1, true}});
    const auto used = rig.take_used(kControl);
    if (!used || used->len != 1) return std::nullopt;
    return rig.peek<std::uint8_t>(kRigBuffers + 0x1000);
  }
  std::optional<std::uint8_t> set_offloads(std::uint64_t features, std::size_t size = 8) {
    std::string bytes("\x05\x00", 2);
    for (std::size_t i = 0; i < size; ++i) bytes += static_cast<char>(features >> 8 * (i % 8));
    return command(bytes);
  }
};

TEST_F(NetControlTest, SwitchesOffloads) {
  attach();
  rig.start();
  EXPECT_EQ(set_offloads(bit(VIRTIO_NET_F_GUEST_CSUM)), VIRTIO_NET_OK);
  EXPECT_EQ(port.offload_set, unsigned{TUN_F_CSUM});
  EXPECT_EQ(set_offloads(0), VIRTIO_NET_OK);
  EXPECT_EQ(port.offload_set, 0U);
  EXPECT_EQ(set_offloads(bit(VIRTIO_NET_F_GUEST_CSUM) | bit(VIRTIO_NET_F_GUEST_TSO4)),
            VIRTIO_NET_OK);
  EXPECT_EQ(port.offload_set, TUN_F_CSUM | TUN_F_TSO4);
}

TEST_F(NetControlTest, RefusesWhatWasNotAgreedOn) {
  attach();
  rig.start(bit(VIRTIO_NET_F_CTRL_VQ) | bit(VIRTIO_NET_F_CTRL_GUEST_OFFLOADS) |
            bit(VIRTIO_NET_F_GUEST_CSUM));
  EXPECT_EQ(set_offloads(bit(VIRTIO_NET_F_GUEST_TSO4)), VIRTIO_NET_ERR);
  EXPECT_EQ(set_offloads(bit(VIRTIO_NET_F_MAC)), VIRTIO_NET_ERR);
  EXPECT_EQ(set_offloads(0, 7), VIRTIO_NET_ERR);
  EXPECT_EQ(set_offloads(0, 9), VIRTIO_NET_ERR);
  EXPECT_EQ(port.offload_set, unsigned{TUN_F_CSUM});
  rig.write(VIRTIO_MMIO_STATUS, 0);
  rig.start(bit(VIRTIO_NET_F_CTRL_VQ) | bit(VIRTIO_NET_F_GUEST_CSUM));
  EXPECT_EQ(set_offloads(0), VIRTIO_NET_ERR);
}

TEST_F(NetControlTest, RefusesUnknownAndMalformedCommands) {
  attach();
  rig.start();
  EXPECT_EQ(command(""), VIRTIO_NET_ERR);
  EXPECT_EQ(command("\x03"), VIRTIO_NET_ERR);
  EXPECT_EQ(command("\x03\x01"), VIRTIO_NET_ERR);
  EXPECT_EQ(command(std::string_view("\x00\x00\x01", 3)), VIRTIO_NET_ERR);
  EXPECT_EQ(command(std::string(60'000, '\x05')), VIRTIO_NET_ERR);
  rig.submit(kControl, {{kRigBuffers, 2}});
  const auto used = rig.take_used(kControl);
  ASSERT_TRUE(used);
  EXPECT_EQ(used->len, 0U);
  EXPECT_FALSE(rig.needs_reset());
}

TEST_F(NetControlTest, AnnouncesAfterAMoveUntilTheDriverHasDoneSo) {
  attach();
  rig.start();
  const auto generation = rig.read(VIRTIO_MMIO_CONFIG_GENERATION);
  net->announce();
  EXPECT_EQ(net_status(), VIRTIO_NET_S_LINK_UP | VIRTIO_NET_S_ANNOUNCE);
  EXPECT_NE(rig.read(VIRTIO_MMIO_CONFIG_GENERATION), generation);
  EXPECT_EQ(rig.read(VIRTIO_MMIO_INTERRUPT_STATUS), VIRTIO_MMIO_INT_CONFIG);
  EXPECT_EQ(rig.edge.count, 1);
  EXPECT_EQ(command(std::string_view("\x03\x00", 2)), VIRTIO_NET_OK);
  EXPECT_EQ(net_status(), VIRTIO_NET_S_LINK_UP);
}

TEST_F(NetControlTest, SpeaksForDriversThatCannotAnnounce) {
  attach();
  rig.start(bit(VIRTIO_NET_F_MAC) | bit(VIRTIO_NET_F_STATUS));
  net->announce();
  EXPECT_EQ(net_status(), VIRTIO_NET_S_LINK_UP);
  EXPECT_EQ(rig.edge.count, 0);
  const std::string expected(
      "\0\0\0\0\0\0\0\0\0\0\0\0"                  // virtio's header
      "\xff\xff\xff\xff\xff\xff"                  // to everyone
      "\x52\x54\x00\x12\x34\x56"                  // from the guest
      "\x80\x35\x00\x01\x08\x00\x06\x04\x00\x03"  // RARP request, Ethernet and IPv4
      "\x52\x54\x00\x12\x34\x56\0\0\0\0"
      "\x52\x54\x00\x12\x34\x56\0\0\0\0"
      "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
      72);
  EXPECT_EQ(port.receive(), expected);
}

TEST_F(NetTest, AnnouncesBeforeTheDriverRunsWithoutItsHelp) {
  attach();
  net->announce();
  EXPECT_EQ(net_status(), VIRTIO_NET_S_LINK_UP);
  EXPECT_TRUE(port.receive());
}

}  // namespace
}  // namespace vmm::virtio
