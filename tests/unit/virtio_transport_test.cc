#include "devices/virtio/mmio_transport.h"

#include "virtio_echo_fixture.h"

// Registers, kicks and interrupts.
namespace vmm::virtio {
namespace {

class MmioTransportTest : public EchoFixture {
 protected:
  // Every register of the window, before the configuration space.
  std::vector<std::uint32_t> all_registers() {
    std::vector<std::uint32_t> values;
    for (std::uint64_t at = 0; at < VIRTIO_MMIO_CONFIG; at += 4) values.push_back(rig.read(at));
    return values;
  }
};

TEST_F(MmioTransportTest, GivesRequestsBackAndInterrupts) {
  rig.start();
  const auto head = rig.submit(1, {{kRigBuffers, 16, true}});
  const auto used = rig.take_used(1);
  ASSERT_TRUE(used);
  EXPECT_EQ(used->id, head);
  EXPECT_EQ(used->len, 4U);
  EXPECT_EQ(rig.peek_text(kRigBuffers, 4), "pong");
  EXPECT_TRUE(rig.is_dirty(kRigBuffers));
  EXPECT_EQ(rig.edge.count, 1);
  EXPECT_EQ(rig.read(VIRTIO_MMIO_INTERRUPT_STATUS), VIRTIO_MMIO_INT_VRING);
}

TEST_F(MmioTransportTest, IdentifiesItself) {
  EXPECT_EQ(rig.read(VIRTIO_MMIO_MAGIC_VALUE), 0x7472'6976U);
  EXPECT_EQ(rig.read(VIRTIO_MMIO_VERSION), 2U);
  EXPECT_EQ(rig.read(VIRTIO_MMIO_DEVICE_ID), std::uint32_t{VIRTIO_ID_RNG});
  EXPECT_EQ(rig.read(VIRTIO_MMIO_SHM_LEN_LOW), 0xffff'ffffU);
  EXPECT_EQ(rig.read(VIRTIO_MMIO_SHM_BASE_HIGH), 0xffff'ffffU);
}

TEST_F(MmioTransportTest, AnswersOnlyAlignedAccessesOf32Bits) {
  rig.start();
  const auto before = all_registers();
  for (std::uint64_t offset = 0; offset < VIRTIO_MMIO_CONFIG; ++offset) {
    for (const std::size_t size : {1U, 2U, 4U, 8U}) {
      if (offset % 4 == 0 && size == 4) continue;
      EXPECT_EQ(mmio_read(*rig.transport, offset, size), 0U) << offset << '/' << size;
      for (const std::uint64_t value : {0ULL, 1ULL, ~0ULL}) {
        mmio_write(*rig.transport, offset, value, size);
      }
    }
  }
  EXPECT_EQ(all_registers(), before);
  EXPECT_EQ(echo().take_calls(), "activate process process");
  expect_works();
}

TEST_F(MmioTransportTest, IgnoresWritesToReadOnlyRegistersAndGaps) {
  rig.start();
  const auto before = all_registers();
  constexpr std::uint64_t kWritable[] = {
      VIRTIO_MMIO_DEVICE_FEATURES_SEL, VIRTIO_MMIO_DRIVER_FEATURES_SEL, VIRTIO_MMIO_QUEUE_SEL,
      VIRTIO_MMIO_QUEUE_NOTIFY,        VIRTIO_MMIO_INTERRUPT_ACK,       VIRTIO_MMIO_STATUS};
  for (std::uint64_t offset = 0; offset < VIRTIO_MMIO_CONFIG; offset += 4) {
    if (std::ranges::find(kWritable, offset) != std::end(kWritable)) continue;
    for (const std::uint64_t value : {0ULL, 1ULL, 0xffff'ffffULL}) rig.write(offset, value);
    EXPECT_EQ(all_registers(), before) << offset;
  }
  expect_works();
}

TEST_F(MmioTransportTest, ShowsFeaturesByHalves) {
  const std::uint64_t expected = std::uint64_t{1} << EchoDevice::kFeature |
                                 std::uint64_t{1} << VIRTIO_RING_F_INDIRECT_DESC |
                                 std::uint64_t{1} << VIRTIO_RING_F_EVENT_IDX | kVersion1;
  EXPECT_EQ(rig.offered(), expected);
  for (const std::uint32_t half : {2U, 0x8000'0000U, 0xffff'ffffU}) {
    rig.write(VIRTIO_MMIO_DEVICE_FEATURES_SEL, half);
    EXPECT_EQ(rig.read(VIRTIO_MMIO_DEVICE_FEATURES), 0U) << half;
  }
}

TEST_F(MmioTransportTest, TakesFeaturesByHalvesUntilTheyAreAgreed) {
  rig.write(VIRTIO_MMIO_STATUS, kAcknowledged);
  rig.write_features(kVersion1 | 1U << EchoDevice::kFeature);
  // A half that does not exist, and one that is written again.
  rig.write(VIRTIO_MMIO_DRIVER_FEATURES_SEL, 2);
  rig.write(VIRTIO_MMIO_DRIVER_FEATURES, 0xffff'ffff);
  rig.write(VIRTIO_MMIO_DRIVER_FEATURES_SEL, 0);
  rig.write(VIRTIO_MMIO_DRIVER_FEATURES, 0);
  rig.write(VIRTIO_MMIO_STATUS, kNegotiated);
  ASSERT_EQ(rig.status(), kNegotiated);
  // From now on nothing of it changes.
  rig.write(VIRTIO_MMIO_DRIVER_FEATURES, 0xffff'ffff);
  rig.write(VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
  rig.write(VIRTIO_MMIO_DRIVER_FEATURES, 0);
  rig.write(VIRTIO_MMIO_STATUS, kStarted);
  EXPECT_EQ(rig.status(), kStarted);
  EXPECT_EQ(echo().agreed_features(), kVersion1);
}

TEST_F(MmioTransportTest, ShowsTheLimitsOfEachQueue) {
  for (const std::uint32_t queue : {0U, 1U, 2U, 0x1'0000U, 0xffff'ffffU}) {
    rig.write(VIRTIO_MMIO_QUEUE_SEL, queue);
    EXPECT_EQ(rig.read(VIRTIO_MMIO_QUEUE_NUM_MAX), queue < 2 ? VirtioRig::kQueueSize : 0U);
    EXPECT_EQ(rig.read(VIRTIO_MMIO_QUEUE_READY), 0U);
  }
}

TEST_F(MmioTransportTest, HasNoQueueBeyondTheLast) {
  rig.set_queue(2);
  EXPECT_EQ(rig.read(VIRTIO_MMIO_QUEUE_READY), 0U);
  rig.start();
  EXPECT_FALSE(echo().has_queue(2));
}

TEST_F(MmioTransportTest, FreezesAQueueWhileItIsReady) {
  go_to(kNegotiated);
  rig.set_queue(0);
  // Every register of it gets a value that would be refused at DRIVER_OK.
  const auto spoil = [&] {
    rig.write(VIRTIO_MMIO_QUEUE_NUM, 3);
    rig.write(VIRTIO_MMIO_QUEUE_DESC_HIGH, 1);
    rig.write(VIRTIO_MMIO_QUEUE_AVAIL_HIGH, 1);
    rig.write(VIRTIO_MMIO_QUEUE_USED_HIGH, 1);
  };
  spoil();
  rig.write(VIRTIO_MMIO_QUEUE_READY, 0);
  EXPECT_EQ(rig.read(VIRTIO_MMIO_QUEUE_READY), 0U);
  rig.write(VIRTIO_MMIO_QUEUE_READY, 0xffff'ffff);
  EXPECT_EQ(rig.read(VIRTIO_MMIO_QUEUE_READY), 1U);
  rig.write(VIRTIO_MMIO_STATUS, kStarted);
  EXPECT_EQ(rig.status(), kStarted);
  EXPECT_TRUE(echo().has_queue(0));
  EXPECT_FALSE(echo().has_queue(1));
}

TEST_F(MmioTransportTest, FreezesQueuesFromDriverOk) {
  rig.start();
  for (unsigned queue = 0; queue < 2; ++queue) {
    rig.write(VIRTIO_MMIO_QUEUE_SEL, queue);
    rig.write(VIRTIO_MMIO_QUEUE_READY, 0);
    EXPECT_EQ(rig.read(VIRTIO_MMIO_QUEUE_READY), 1U);
    rig.write(VIRTIO_MMIO_QUEUE_NUM, 0);
    rig.write(VIRTIO_MMIO_QUEUE_DESC_LOW, 0xffff'ffff);
    rig.write(VIRTIO_MMIO_QUEUE_AVAIL_LOW, 0xffff'ffff);
    rig.write(VIRTIO_MMIO_QUEUE_USED_LOW, 0xffff'ffff);
    expect_works(queue);
  }
  const auto state = saved(*rig.transport);
  rig.write(VIRTIO_MMIO_QUEUE_NUM, 8);
  rig.write(VIRTIO_MMIO_QUEUE_DESC_HIGH, 8);
  EXPECT_EQ(saved(*rig.transport), state);
}

TEST_F(MmioTransportTest, DoesNotTouchAQueueThatWasNotSetUp) {
  go_to(kNegotiated);
  rig.write(VIRTIO_MMIO_STATUS, kStarted);
  EXPECT_EQ(rig.status(), kStarted);
  ASSERT_TRUE(rig.loop.settle());
  rig.kick(0);
  ASSERT_TRUE(rig.loop.settle());
  EXPECT_EQ(echo().take_calls(), "activate");
}

TEST_F(MmioTransportTest, KicksOnlyQueuesThatExist) {
  rig.start();
  (void)echo().take_calls();
  for (const std::uint32_t queue : {2U, 0x100U, 0x1'0000U, 0xffff'ffffU}) rig.kick(queue);
  EXPECT_FALSE(rig.loop.turn());
  EXPECT_EQ(echo().take_calls(), "");
  rig.kick(1);
  EXPECT_TRUE(rig.loop.settle());
  EXPECT_EQ(echo().take_calls(), "process");
}

TEST_F(MmioTransportTest, HandlesManyKicksAtOnce) {
  rig.start();
  (void)echo().take_calls();
  for (int i = 0; i < 1000; ++i) rig.kick(0);
  EXPECT_TRUE(rig.loop.settle());
  EXPECT_EQ(echo().take_calls(), "process");
}

TEST_F(MmioTransportTest, TakesKicksFromTheDescriptor) {
  rig.start();
  rig.add(1, {{kRigBuffers, 16, true}});
  signal_eventfd(rig.transport->kick_fd(1));
  EXPECT_TRUE(rig.loop.settle());
  EXPECT_TRUE(rig.take_used(1));
}

TEST_F(MmioTransportTest, ProcessesAgainWhenAsked) {
  rig.start();
  (void)echo().take_calls();
  echo().ask_again(1);
  EXPECT_TRUE(rig.loop.settle());
  EXPECT_EQ(echo().take_calls(), "process");
}

TEST_F(MmioTransportTest, KeepsKicksFromADeviceThatIsNotActive) {
  rig.kick(0);
  echo().ask_again(1);
  EXPECT_TRUE(rig.loop.settle());
  go_to(kNegotiated);
  rig.kick(0);
  EXPECT_TRUE(rig.loop.settle());
  EXPECT_EQ(echo().take_calls(), "");
}

TEST_F(MmioTransportTest, ProcessesWhatWasThereBeforeDriverOk) {
  constexpr std::uint32_t kDriver = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER;
  rig.write(VIRTIO_MMIO_STATUS, kDriver);
  rig.write_features(std::uint64_t{1} << VIRTIO_F_VERSION_1);
  rig.write(VIRTIO_MMIO_STATUS, kDriver | VIRTIO_CONFIG_S_FEATURES_OK);
  rig.set_queue(0);
  rig.put_descriptor(VirtioRig::table(0), {kRigBuffers, 16, VRING_DESC_F_WRITE, 0});
  rig.poke(VirtioRig::available(0) + 2, std::uint16_t{1});
  rig.write(VIRTIO_MMIO_STATUS, kDriver | VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK);
  ASSERT_TRUE(rig.loop.settle());
  EXPECT_EQ(rig.peek<std::uint16_t>(VirtioRig::used(0) + 2), 1U);
}

TEST_F(MmioTransportTest, KeepsACauseUntilItIsAcknowledged) {
  rig.start();
  expect_works(0);
  echo().change_config();
  EXPECT_EQ(rig.edge.count, 2);
  constexpr std::uint32_t kBoth = VIRTIO_MMIO_INT_VRING | VIRTIO_MMIO_INT_CONFIG;
  EXPECT_EQ(rig.read(VIRTIO_MMIO_INTERRUPT_STATUS), kBoth);
  rig.write(VIRTIO_MMIO_INTERRUPT_STATUS, kBoth);
  rig.write(VIRTIO_MMIO_INTERRUPT_ACK, 0);
  rig.write(VIRTIO_MMIO_INTERRUPT_ACK, ~kBoth);
  EXPECT_EQ(rig.read(VIRTIO_MMIO_INTERRUPT_STATUS), kBoth);
  rig.write(VIRTIO_MMIO_INTERRUPT_ACK, VIRTIO_MMIO_INT_VRING);
  EXPECT_EQ(rig.read(VIRTIO_MMIO_INTERRUPT_STATUS), std::uint32_t{VIRTIO_MMIO_INT_CONFIG});
  rig.write(VIRTIO_MMIO_INTERRUPT_ACK, 0xffff'ffff);
  EXPECT_EQ(rig.read(VIRTIO_MMIO_INTERRUPT_STATUS), 0U);
}

// The line is an edge: each event is one, or the driver would sleep on what came before its ack.
TEST_F(MmioTransportTest, InterruptsAgainBeforeTheLastCauseIsAcknowledged) {
  rig.start();
  expect_works(0);
  expect_works(0);
  EXPECT_EQ(rig.edge.count, 2);
}

TEST_F(MmioTransportTest, CountsGenerationsOfTheConfiguration) {
  const auto first = rig.read(VIRTIO_MMIO_CONFIG_GENERATION);
  echo().change_config();
  EXPECT_NE(rig.read(VIRTIO_MMIO_CONFIG_GENERATION), first);
  // Nobody listens yet.
  EXPECT_EQ(rig.edge.count, 0);
  EXPECT_EQ(rig.read(VIRTIO_MMIO_INTERRUPT_STATUS), 0U);
}

TEST_F(MmioTransportTest, PassesConfigurationSpaceOnByOffsetAndWidth) {
  for (const std::size_t size : {1U, 2U, 4U, 8U}) {
    mmio_write(*rig.transport, VIRTIO_MMIO_CONFIG, 0x1122'3344'5566'7788, 8);
    EXPECT_EQ(mmio_read(*rig.transport, VIRTIO_MMIO_CONFIG, size),
              0x1122'3344'5566'7788 & (~0ULL >> (64 - 8 * size)));
    // Across the end of it, and at the end of the window.
    mmio_write(*rig.transport, VIRTIO_MMIO_CONFIG + 7, ~0ULL, size);
    EXPECT_EQ(mmio_read(*rig.transport, VIRTIO_MMIO_CONFIG + 7, size), 0xffU);
    const std::uint64_t last = MmioTransport::kWindow - size;
    mmio_write(*rig.transport, last, ~0ULL, size);
    EXPECT_EQ(mmio_read(*rig.transport, last, size), 0U);
  }
}

}  // namespace
}  // namespace vmm::virtio
