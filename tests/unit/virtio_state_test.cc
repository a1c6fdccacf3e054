#include "virtio_echo_fixture.h"

// Stopping a transport, saving it, and going on elsewhere; and states that no transport has saved.
namespace vmm::virtio {
namespace {

// Where fields are in the saved state of a transport with two queues.
constexpr std::size_t kStatusAt = 4;
constexpr std::size_t kFeaturesAt = 8;
constexpr std::size_t kInterruptAt = 28;
constexpr std::size_t kQueueCountAt = 36;
constexpr std::size_t kQueuesAt = 40;
constexpr std::size_t kSizeAt = 0;  // in a queue
constexpr std::size_t kReadyAt = 2;
constexpr std::size_t kDescriptorsAt = 3;
constexpr std::size_t kAvailableAt = 11;
constexpr std::size_t kUsedAt = 19;
constexpr std::size_t kNextAvailableAt = 27;
constexpr std::size_t kNextUsedAt = 29;
constexpr std::size_t kPublishedAt = 31;
constexpr std::size_t kQueueBytes = 33;
constexpr std::size_t kBlobAt = kQueuesAt + 2 * kQueueBytes;

class VirtioStateTest : public EchoFixture {
 protected:
  static constexpr std::uint32_t kNeedsReset = VIRTIO_CONFIG_S_NEEDS_RESET;

  // A stopped transport on the same memory, as the destination of a migration has it.
  std::unique_ptr<MmioTransport> destination() {
    return MmioTransport::create(std::make_unique<EchoDevice>(), rig.memory, rig.edge, rig.loop)
        .value();
  }
  // Moves the guest over; what is saved there is what was saved here.
  void migrate() {
    rig.transport->quiesce();
    const auto state = saved(*rig.transport);
    auto there = destination();
    ASSERT_TRUE(restored(*there, state));
    EXPECT_EQ(saved(*there), state);
    rig.transport = std::move(there);
    rig.transport->resume();
    EXPECT_TRUE(rig.loop.settle());
  }
};

TEST_F(VirtioStateTest, MovesInEveryStateADriverCanReach) {
  struct Case {
    const char* what;
    std::function<void()> reach;
  };
  const auto status = [this](std::uint32_t value) { rig.write(VIRTIO_MMIO_STATUS, value); };
  const Case cases[] = {
      {"fresh", [] {}},
      {"acknowledged", [&] { status(1); }},
      {"with a driver", [&] { status(3); }},
      {"half of the features written",
       [&] {
         status(3);
         rig.write(VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
         rig.write(VIRTIO_MMIO_DRIVER_FEATURES, 1);
       }},
      {"features that will be refused", [&] { rig.write_features(~std::uint64_t{0}); }},
      {"negotiated", [&] { go_to(kNegotiated); }},
      {"one queue set up",
       [&] {
         go_to(kNegotiated);
         rig.set_queue(1);
       }},
      {"queues that will be refused",
       [&] {
         go_to(kNegotiated);
         rig.set_queue(0, 3);
         rig.write(VIRTIO_MMIO_QUEUE_SEL, 0xffff'ffff);
       }},
      {"running", [&] { rig.start(); }},
      {"running without queues", [&] { go_to(kNegotiated), status(kStarted); }},
      {"after requests",
       [&] {
         rig.start();
         for (int i = 0; i < 40; ++i) expect_works(i % 2);
       }},
      {"with the event index",
       [&] {
         rig.start(std::uint64_t{1} << VIRTIO_RING_F_EVENT_IDX);
         expect_works();
       }},
      {"a kick on its way",
       [&] {
         rig.start();
         rig.add(0, {{kRigBuffers, 16, true}});
         rig.kick(0);
       }},
      {"the configuration changed",
       [&] {
         rig.start();
         echo().change_config();
         mmio_write(*rig.transport, VIRTIO_MMIO_CONFIG, 0x1234, 2);
       }},
      {"in need of a reset",
       [&] {
         rig.start();
         expect_works();
         echo().find_protocol_broken();
       }},
      {"DRIVER_OK without FEATURES_OK", [&] { status(7); }},
      {"in need of a reset, with features agreed",
       [&] {
         status(7);
         rig.write_features(kVersion1);
         status(15);
       }},
      {"DRIVER_OK with an unfit queue",
       [&] {
         go_to(kNegotiated);
         rig.set_queue(1, 3);
         status(kStarted);
       }},
      {"failed", [&] { rig.start(), status(kStarted | VIRTIO_CONFIG_S_FAILED); }},
      {"reset", [&] { rig.start(), status(0); }},
  };
  for (const Case& test : cases) {
    SCOPED_TRACE(test.what);
    rig.transport.reset();
    const auto ram = rig.memory.slice(kRigRam, 0x1'0000).value();
    std::memset(ram.data(), 0, ram.size());
    rig.attach(std::make_unique<EchoDevice>());
    test.reach();
    const auto before = rig.status();
    const auto generation = rig.read(VIRTIO_MMIO_CONFIG_GENERATION);
    const auto config = mmio_read(*rig.transport, VIRTIO_MMIO_CONFIG, 8);
    const bool active = echo().is_active();
    migrate();
    EXPECT_EQ(rig.status(), before);
    EXPECT_EQ(rig.read(VIRTIO_MMIO_CONFIG_GENERATION), generation);
    EXPECT_EQ(mmio_read(*rig.transport, VIRTIO_MMIO_CONFIG, 8), config);
    EXPECT_EQ(echo().is_active(), active);
    migrate();
  }
}

TEST_F(VirtioStateTest, LosesNoRequestOnTheWay) {
  for (const std::uint64_t features : {std::uint64_t{0}, std::uint64_t{1} << 29}) {
    rig.write(VIRTIO_MMIO_STATUS, 0);
    for (unsigned queue = 0; queue < 2; ++queue) {
      rig.poke(VirtioRig::available(queue) + 2, std::uint16_t{0});
      rig.poke(VirtioRig::used(queue) + 2, std::uint16_t{0});
    }
    rig.start(features);
    expect_works();
    rig.transport->quiesce();
    const auto head = rig.add(0, {{kRigBuffers, 16, true}});
    rig.kick(0);
    EXPECT_TRUE(rig.loop.settle());
    EXPECT_FALSE(rig.take_used(0)) << "a stopped device touches no queue";
    migrate();
    const auto used = rig.take_used(0);
    ASSERT_TRUE(used);
    EXPECT_EQ(used->id, head);
    expect_works(1);
  }
}

TEST_F(VirtioStateTest, StopsAndGoesOnOnce) {
  rig.start();
  (void)echo().take_calls();
  rig.transport->quiesce();
  rig.transport->quiesce();
  EXPECT_FALSE(echo().is_active());
  EXPECT_EQ(echo().take_calls(), "quiesce");
  rig.transport->resume();
  rig.transport->resume();
  EXPECT_TRUE(echo().is_active());
  EXPECT_EQ(echo().take_calls(), "resume");
  EXPECT_TRUE(rig.loop.settle());
  EXPECT_EQ(echo().take_calls(), "process process");
}

TEST_F(VirtioStateTest, StartsStopped) {
  rig.transport = destination();
  rig.start();
  EXPECT_FALSE(echo().is_active());
  EXPECT_EQ(echo().take_calls(), "activate");
  rig.transport->resume();
  EXPECT_TRUE(echo().is_active());
  EXPECT_TRUE(rig.loop.settle());
  EXPECT_EQ(echo().take_calls(), "resume process process");
}

TEST_F(VirtioStateTest, TakesResetsAndStartsWhileStopped) {
  rig.start();
  rig.transport->quiesce();
  rig.write(VIRTIO_MMIO_STATUS, 0);
  rig.transport->resume();
  EXPECT_FALSE(echo().is_active());
  rig.transport->quiesce();
  rig.start();
  EXPECT_FALSE(echo().is_active());
  rig.transport->resume();
  EXPECT_TRUE(echo().is_active());
}

// KVM delivers what comes through a descriptor in its own time: the interrupt controller may have
// been saved before.
TEST_F(VirtioStateTest, RepeatsAnInterruptThatNobodyHasAcknowledged) {
  rig.start();
  expect_works();
  rig.edge.count = 0;
  migrate();
  EXPECT_EQ(rig.edge.count, 1);
  EXPECT_EQ(rig.read(VIRTIO_MMIO_INTERRUPT_STATUS), std::uint32_t{VIRTIO_MMIO_INT_VRING});
  rig.write(VIRTIO_MMIO_INTERRUPT_ACK, VIRTIO_MMIO_INT_VRING);
  migrate();
  EXPECT_EQ(rig.edge.count, 1);
}

TEST_F(VirtioStateTest, RefusesBytesThatAreCutOrOfAnotherVersion) {
  rig.start();
  expect_works();
  rig.transport->quiesce();
  const auto state = saved(*rig.transport);
  EXPECT_EQ(state.size(), kBlobAt + 4 + 4 + EchoDevice::kConfigSize);
  auto there = destination();
  expect_hostile_bytes_refused(*there, state);
  auto longer = state;
  longer.push_back(std::byte{0});
  EXPECT_FALSE(restored(*there, longer));
}

TEST_F(VirtioStateTest, RefusesStatesThatNoTransportIsIn) {
  rig.start();
  expect_works();
  rig.transport->quiesce();
  const auto state = saved(*rig.transport);
  auto there = destination();
  const auto refuses = [&](std::size_t at, auto value) {
    SCOPED_TRACE(at);
    expect_field_refused(*there, state, at, value);
  };
  // Status.
  refuses(kStatusAt, std::uint32_t{0x100 | kStarted});
  refuses(kStatusAt, std::uint32_t{0x10 | kStarted});
  refuses(kStatusAt, std::uint32_t{VIRTIO_CONFIG_S_DRIVER_OK});
  refuses(kStatusAt, std::uint32_t{kNegotiated | kNeedsReset});
  // Requests were taken, but nobody had started it.
  refuses(kStatusAt, std::uint32_t{kNegotiated});
  refuses(kStatusAt, std::uint32_t{0});
  refuses(kFeaturesAt, std::uint64_t{0});
  refuses(kFeaturesAt, kVersion1 | 1);
  refuses(kInterruptAt, std::uint32_t{4});
  refuses(kQueueCountAt, std::uint32_t{0});
  refuses(kQueueCountAt, std::uint32_t{1});
  refuses(kQueueCountAt, std::uint32_t{3});
  refuses(kQueueCountAt, std::uint32_t{0xffff'ffff});
  for (std::size_t queue = kQueuesAt; queue < kBlobAt; queue += kQueueBytes) {
    for (const std::uint16_t size : std::initializer_list<std::uint16_t>{0, 3, 32, 0xffff}) {
      refuses(queue + kSizeAt, size);
    }
    refuses(queue + kReadyAt, std::uint8_t{2});
    for (const std::size_t at : {kDescriptorsAt, kAvailableAt, kUsedAt}) {
      for (const std::uint64_t address :
           {std::uint64_t{0}, kRigRam + 1, kRigRam + kRigRamSize - 4, ~std::uint64_t{15}}) {
        refuses(queue + at, address);
      }
    }
    refuses(queue + kNextAvailableAt, std::uint16_t{0xffff});
    refuses(queue + kNextAvailableAt, std::uint16_t{18});
    refuses(queue + kNextUsedAt, std::uint16_t{2});
    refuses(queue + kPublishedAt, std::uint16_t{2});
    refuses(queue + kPublishedAt, std::uint16_t{0x8000});
  }
  // The device's part: its length, its version, and bytes that it does not know.
  refuses(kBlobAt, std::uint32_t{11});
  refuses(kBlobAt, std::uint32_t{13});
  refuses(kBlobAt, std::uint32_t{0xffff'ffff});
  refuses(kBlobAt + 4, std::uint32_t{2});
  EXPECT_TRUE(restored(*there, state));
}

// What is not looked at before a reset may be anything; it comes out again as it went in.
TEST_F(VirtioStateTest, KeepsRingsThatItNeverLooksAt) {
  rig.start();
  expect_works();
  echo().find_protocol_broken();
  rig.transport->quiesce();
  auto state = saved(*rig.transport);
  std::memset(state.data() + kQueuesAt, 0xff, 2);
  std::memset(state.data() + kQueuesAt + kDescriptorsAt, 0xff, kQueueBytes - kDescriptorsAt);
  auto there = destination();
  ASSERT_TRUE(restored(*there, state));
  EXPECT_EQ(saved(*there), state);
  rig.transport = std::move(there);
  rig.transport->resume();
  rig.kick(0);
  EXPECT_TRUE(rig.loop.settle());
  EXPECT_TRUE(rig.needs_reset());
  rig.write(VIRTIO_MMIO_STATUS, 0);
  rig.poke(VirtioRig::available(0) + 2, std::uint16_t{0});
  rig.poke(VirtioRig::used(0) + 2, std::uint16_t{0});
  rig.start();
  expect_works();
}

}  // namespace
}  // namespace vmm::virtio
