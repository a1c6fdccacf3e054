#include "virtio_echo_fixture.h"

// How a driver starts a device, in the right order and in wrong ones, and how it ends.
namespace vmm::virtio {
namespace {

class VirtioStatusTest : public EchoFixture {};

constexpr std::uint32_t kNeedsReset = VIRTIO_CONFIG_S_NEEDS_RESET;
constexpr std::uint32_t kFailed = VIRTIO_CONFIG_S_FAILED;
constexpr std::uint32_t kDriverOk = VIRTIO_CONFIG_S_DRIVER_OK;
constexpr std::uint32_t kFeaturesOk = VIRTIO_CONFIG_S_FEATURES_OK;

TEST_F(VirtioStatusTest, FollowsTheDriver) {
  struct Case {
    const char* what;
    std::vector<std::uint32_t> writes;
    std::uint32_t status;
    const char* calls;
  };
  const Case cases[] = {
      {"nothing", {}, 0, ""},
      {"step by step", {1, 3, 11, 15}, kStarted, "activate"},
      {"all at once", {15}, kStarted, "activate"},
      {"without saying hello", {kFeaturesOk, kDriverOk}, kFeaturesOk | kDriverOk, "activate"},
      {"DRIVER_OK twice", {11, 15, 15, kDriverOk}, kStarted, "activate"},
      {"bits cleared", {3, 1, 2}, kAcknowledged, ""},
      {"bits cleared while it runs", {15, 1, 8, 4}, kStarted, "activate"},
      {"bits that do not exist", {0x100, 0xffff'ff10 & ~0xffU, 0x30}, 0, ""},
      {"NEEDS_RESET from the driver", {3, kNeedsReset, 3 | kNeedsReset}, kAcknowledged, ""},
      {"everything", {0xffff'ffff}, kStarted | kFailed, "activate"},
      {"FAILED", {3, 3 | kFailed}, kAcknowledged | kFailed, ""},
      {"FAILED while it runs", {15, 15 | kFailed}, kStarted | kFailed, "activate"},
      {"DRIVER_OK before FEATURES_OK", {3, 7}, 7 | kNeedsReset, ""},
      {"and FEATURES_OK then", {3, 7, 15}, kStarted | kNeedsReset, ""},
      {"DRIVER_OK alone", {4}, kDriverOk | kNeedsReset, ""},
      {"reset", {15, 0}, 0, "activate reset"},
      {"reset of what did not run", {3, 0, 0}, 0, "reset reset"},
      {"reset and again",
       {15, 0, 15},
       kAcknowledged | kDriverOk | kNeedsReset,
       "activate reset"},  // the features are gone
  };
  for (const auto& [what, writes, status, calls] : cases) {
    rig.write(VIRTIO_MMIO_STATUS, 0);
    (void)echo().take_calls();
    rig.write_features(kVersion1);
    for (const std::uint32_t value : writes) rig.write(VIRTIO_MMIO_STATUS, value);
    EXPECT_EQ(rig.status(), status) << what;
    EXPECT_EQ(echo().take_calls(), calls) << what;
    const bool runs = (status & kDriverOk) != 0 && (status & kNeedsReset) == 0;
    EXPECT_EQ(echo().is_active(), runs) << what;
  }
}

TEST_F(VirtioStatusTest, RefusesFeaturesThatItDoesNotOffer) {
  struct Case {
    std::uint64_t features;
    bool accepted;
  };
  constexpr std::uint64_t kOwn = std::uint64_t{1} << EchoDevice::kFeature;
  const Case cases[] = {
      {kVersion1, true},
      {kVersion1 | kOwn, true},
      {rig.offered(), true},
      {0, false},
      {kOwn, false},  // a driver for legacy devices
      {kVersion1 | 1, false},
      {kVersion1 | std::uint64_t{1} << VIRTIO_F_RING_PACKED, false},
      {kVersion1 | std::uint64_t{1} << 63, false},
      {~std::uint64_t{0}, false},
  };
  for (const auto& [features, accepted] : cases) {
    rig.write(VIRTIO_MMIO_STATUS, 0);
    rig.write(VIRTIO_MMIO_STATUS, kAcknowledged);
    rig.write_features(features);
    rig.write(VIRTIO_MMIO_STATUS, kNegotiated);
    EXPECT_EQ(rig.status(), accepted ? kNegotiated : kAcknowledged) << std::hex << features;
    // A driver that goes on regardless.
    rig.write(VIRTIO_MMIO_STATUS, kStarted);
    EXPECT_EQ(echo().is_active(), accepted) << std::hex << features;
    EXPECT_EQ(rig.needs_reset(), !accepted);
  }
}

TEST_F(VirtioStatusTest, LetsTheDriverTryOtherFeatures) {
  rig.write(VIRTIO_MMIO_STATUS, kAcknowledged);
  rig.write_features(kVersion1 | 1);
  rig.write(VIRTIO_MMIO_STATUS, kNegotiated);
  ASSERT_EQ(rig.status(), kAcknowledged);
  rig.write_features(kVersion1);
  rig.write(VIRTIO_MMIO_STATUS, kNegotiated);
  EXPECT_EQ(rig.status(), kNegotiated);
}

TEST_F(VirtioStatusTest, NeedsResetWhereAQueueIsUnfit) {
  struct Case {
    std::uint64_t reg;
    std::uint32_t value;
  };
  const Case cases[] = {
      {VIRTIO_MMIO_QUEUE_NUM, 0},
      {VIRTIO_MMIO_QUEUE_NUM, 3},
      {VIRTIO_MMIO_QUEUE_NUM, 32},
      {VIRTIO_MMIO_QUEUE_NUM, 0x1'0010},
      {VIRTIO_MMIO_QUEUE_NUM, 0xffff'ffff},
      {VIRTIO_MMIO_QUEUE_DESC_LOW, 0},
      {VIRTIO_MMIO_QUEUE_DESC_HIGH, 1},
      {VIRTIO_MMIO_QUEUE_DESC_LOW, 0x4000'0001},
      {VIRTIO_MMIO_QUEUE_AVAIL_LOW, 0x407f'fff0},
      {VIRTIO_MMIO_QUEUE_AVAIL_HIGH, 0xffff'ffff},
      {VIRTIO_MMIO_QUEUE_USED_LOW, 0xffff'ffff},
      {VIRTIO_MMIO_QUEUE_USED_HIGH, 0x8000'0000},
  };
  for (const auto& [reg, value] : cases) {
    rig.write(VIRTIO_MMIO_STATUS, 0);
    rig.edge.count = 0;
    go_to(kNegotiated);
    rig.set_queue(0);
    rig.set_queue(1);
    rig.write(VIRTIO_MMIO_QUEUE_READY, 0);
    rig.write(reg, value);
    rig.write(VIRTIO_MMIO_QUEUE_READY, 1);
    (void)echo().take_calls();
    rig.write(VIRTIO_MMIO_STATUS, kStarted);
    EXPECT_EQ(rig.status(), kStarted | kNeedsReset) << reg << ' ' << value;
    EXPECT_EQ(rig.edge.count, 1);
    EXPECT_EQ(rig.read(VIRTIO_MMIO_INTERRUPT_STATUS), std::uint32_t{VIRTIO_MMIO_INT_CONFIG});
    rig.kick(0);
    ASSERT_TRUE(rig.loop.settle());
    EXPECT_EQ(echo().take_calls(), "");
  }
  rig.write(VIRTIO_MMIO_STATUS, 0);
  rig.start();
  expect_works();
}

TEST_F(VirtioStatusTest, NeedsResetOnceTheDriverBreaksTheProtocol) {
  rig.start();
  rig.poke(VirtioRig::available(1) + 2, std::uint16_t{VirtioRig::kQueueSize + 1});
  rig.kick(1);
  ASSERT_TRUE(rig.loop.settle());
  EXPECT_EQ(rig.status(), kStarted | kNeedsReset);
  EXPECT_EQ(rig.edge.count, 1);
  EXPECT_FALSE(echo().is_active());
  // Neither queue is touched any more.
  (void)echo().take_calls();
  rig.add(0, {{kRigBuffers, 16, true}});
  rig.kick(0);
  rig.kick(1);
  echo().ask_again(0);
  rig.write(VIRTIO_MMIO_STATUS, kStarted | kFailed);
  ASSERT_TRUE(rig.loop.settle());
  EXPECT_EQ(echo().take_calls(), "");
  EXPECT_FALSE(rig.take_used(0));
  EXPECT_EQ(rig.status(), kStarted | kNeedsReset | kFailed);
}

TEST_F(VirtioStatusTest, RunsAgainAfterTheReset) {
  rig.start();
  echo().find_protocol_broken();
  ASSERT_TRUE(rig.needs_reset());
  rig.write(VIRTIO_MMIO_STATUS, 0);
  EXPECT_EQ(rig.status(), 0U);
  for (unsigned queue = 0; queue < 2; ++queue) {
    rig.poke(VirtioRig::available(queue) + 2, std::uint16_t{0});
    rig.poke(VirtioRig::used(queue) + 2, std::uint16_t{0});
  }
  rig.start();
  expect_works(0);
  expect_works(1);
}

TEST_F(VirtioStatusTest, ForgetsEverythingAtAResetButTheGeneration) {
  const auto fresh = saved(*rig.transport);
  echo().change_config();
  const auto generation = rig.read(VIRTIO_MMIO_CONFIG_GENERATION);
  rig.start();
  expect_works();
  rig.write(VIRTIO_MMIO_DEVICE_FEATURES_SEL, 5);
  for (const bool from_outside : {false, true}) {
    if (from_outside) {
      rig.start();
      rig.transport->reset();
    } else {
      rig.write(VIRTIO_MMIO_STATUS, 0);
    }
    EXPECT_EQ(rig.status(), 0U);
    EXPECT_EQ(rig.read(VIRTIO_MMIO_INTERRUPT_STATUS), 0U);
    for (const std::uint32_t queue : {0U, 1U}) {
      rig.write(VIRTIO_MMIO_QUEUE_SEL, queue);
      EXPECT_EQ(rig.read(VIRTIO_MMIO_QUEUE_READY), 0U);
      EXPECT_FALSE(echo().has_queue(queue));
    }
    EXPECT_EQ(rig.read(VIRTIO_MMIO_CONFIG_GENERATION), generation);
    EXPECT_EQ(echo().agreed_features(), 0U);
    rig.write(VIRTIO_MMIO_QUEUE_SEL, 0);
    auto state = saved(*rig.transport);
    std::memcpy(state.data() + 32, fresh.data() + 32, 4);  // the generation
    EXPECT_EQ(state, fresh);
  }
}

TEST_F(VirtioStatusTest, IgnoresAKickThatWasOnItsWayAtTheReset) {
  rig.start();
  rig.add(0, {{kRigBuffers, 16, true}});
  rig.kick(0);
  rig.write(VIRTIO_MMIO_STATUS, 0);
  (void)echo().take_calls();
  EXPECT_TRUE(rig.loop.settle());
  EXPECT_EQ(echo().take_calls(), "");
  EXPECT_FALSE(rig.take_used(0));
}

}  // namespace
}  // namespace vmm::virtio
