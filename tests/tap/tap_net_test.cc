#include "devices/virtio/net.h"
#include "devices/virtio/net_header.h"
#include "tap_fixture.h"
#include "virtio_rig.h"

namespace vmm::virtio {
namespace {

// A network device with a tap of this host's kernel.
class TapNetTest : public TapFixture {
 protected:
  static constexpr unsigned kRx = 0;
  static constexpr unsigned kTx = 1;
  static constexpr std::size_t kHeader = 12;

  void SetUp() override {
    tap = Tap::open_by_name("tap0").value();
    auto device = std::make_unique<Net>("net.lan", *tap,
                                        MacAddress::parse("52:54:00:12:34:56").value(), rig.loop);
    net = device.get();
    rig.attach(std::move(device));
    rig.start();
    // What the kernel sends by itself when an interface comes up (IPv6) may have been dropped.
  }
  std::uint64_t counter(std::string_view name) const {
    for (const Counter& counter : net->counters()) {
      if (counter.name == name) return counter.value;
    }
    return ~0ULL;
  }
  void submit_frame(const virtio_net_hdr_v1& header, const std::string& frame) {
    rig.poke(kRigBuffers, header);
    rig.poke_text(kRigBuffers + kHeader, frame);
    rig.submit(kTx, {{kRigBuffers, static_cast<std::uint32_t>(kHeader + frame.size())}});
    ASSERT_TRUE(rig.take_used(kTx));
  }
  // The next frame of the peer's protocol that the driver gets, without its header.
  std::optional<std::string> take_frame() {
    for (int turns = 0; turns < 100; ++turns) {
      while (const auto used = rig.take_used(kRx)) {
        const auto frame = rig.peek_text(place(used->id), used->len);
        if (frame.substr(kHeader + 12, 2) == "\x88\xb5") return frame.substr(kHeader);
      }
      rig.loop.turn(std::chrono::milliseconds(10));
    }
    return std::nullopt;
  }
  static std::uint64_t place(std::uint32_t head) { return kRigBuffers + 0x1'0000 + head * 0x4000; }
  void add_buffers() {
    for (std::uint32_t i = 0; i < VirtioRig::kQueueSize; ++i) {
      rig.add(kRx, {{place(i), 0x4000, true}});
    }
    rig.kick(kRx);
    ASSERT_TRUE(rig.loop.settle());
  }

  std::unique_ptr<Tap> tap;
  VirtioRig rig;
  Net* net = nullptr;
};

TEST_F(TapNetTest, FramesGoBothWays) {
  Peer peer("tap0");
  const auto dropped = counter("rx_dropped");
  add_buffers();
  for (const std::size_t size : {50U, 500U, 1500U}) {
    const auto frame = Peer::frame(std::string(size, 'x'));
    submit_frame({}, frame);
    EXPECT_EQ(peer.receive(), frame);
    peer.send(frame);
    EXPECT_EQ(take_frame(), frame);
  }
  EXPECT_EQ(counter("tx_packets"), 3U);
  EXPECT_EQ(counter("tx_dropped"), 0U);
  EXPECT_EQ(counter("rx_dropped"), dropped);
}

TEST_F(TapNetTest, FramesWaitInTheTapForBuffers) {
  Peer peer("tap0");
  for (char i = 0; i < 10; ++i) peer.send(Peer::frame(std::string(100, i)));
  ASSERT_TRUE(rig.loop.settle());
  add_buffers();
  for (char i = 0; i < 10; ++i) EXPECT_EQ(take_frame(), Peer::frame(std::string(100, i)));
}

TEST_F(TapNetTest, HeadersThatTheKernelRefusesAreCounted) {
  Peer peer("tap0");
  const auto frame = Peer::frame(std::string(100, 'x'));
  virtio_net_hdr_v1 header{};
  header.gso_type = 0x55;
  header.gso_size = 1000;
  submit_frame(header, frame);
  header = {};
  header.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
  header.csum_start = 60'000;
  submit_frame(header, frame);
  EXPECT_EQ(peer.receive(), std::nullopt);
  EXPECT_EQ(counter("tx_dropped"), 2U);
  EXPECT_EQ(counter("tx_packets"), 0U);
  EXPECT_FALSE(rig.needs_reset());
}

TEST_F(TapNetTest, AnInterfaceThatIsDownTakesNothingAndWorksAgain) {
  add_buffers();
  set_up("tap0", false);
  submit_frame({}, Peer::frame("down"));
  EXPECT_EQ(counter("tx_dropped"), 1U);
  EXPECT_TRUE(rig.loop.settle());
  set_up("tap0", true);
  Peer peer("tap0");
  submit_frame({}, Peer::frame("up"));
  EXPECT_EQ(peer.receive(), Peer::frame("up"));
  peer.send(Peer::frame(std::string(64, 'y')));
  EXPECT_EQ(take_frame(), Peer::frame(std::string(64, 'y')));
}

TEST_F(TapNetTest, AnInterfaceThatGoesTakesTheLinkDown) {
  add_buffers();
  ASSERT_EQ(std::system("ip link delete tap0"), 0);
  EXPECT_TRUE(rig.loop.settle()) << "the lost tap keeps the loop busy";
  EXPECT_EQ(mmio_read(*rig.transport, VIRTIO_MMIO_CONFIG + 6, 2), 0U);
  submit_frame({}, Peer::frame("gone"));
  EXPECT_EQ(counter("tx_dropped"), 1U);
  rig.write(VIRTIO_MMIO_STATUS, 0);
  rig.start();
  add_buffers();
  EXPECT_TRUE(rig.loop.settle());
}

TEST_F(TapNetTest, OneTapServesTheDeviceOfTheNextBoot) {
  Peer peer("tap0");
  auto device = std::make_unique<Net>("net.lan", *tap,
                                      MacAddress::parse("52:54:00:12:34:56").value(), rig.loop);
  net = device.get();
  rig.transport.reset();
  rig.attach(std::move(device));
  peer.send(Peer::frame("for the boot before"));
  rig.start();
  add_buffers();
  peer.send(Peer::frame(std::string(64, 'z')));
  EXPECT_EQ(take_frame(), Peer::frame(std::string(64, 'z')));
}

}  // namespace
}  // namespace vmm::virtio
