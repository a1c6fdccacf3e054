#include "devices/virtio/rng.h"

#include <set>

#include "virtio_rig.h"

namespace vmm::virtio {
namespace {

class RngTest : public ::testing::Test {
 protected:
  RngTest() { rig.attach(make_device()); }
  std::unique_ptr<Rng> make_device() {
    auto device = std::make_unique<Rng>("rng", rig.loop);
    rng = device.get();
    return device;
  }
  // Asks for bytes and returns how many came.
  std::uint32_t request(std::uint32_t size) {
    rig.submit(0, {{kRigBuffers, size, true}});
    const auto used = rig.take_used(0);
    return used ? used->len : 0;
  }
  std::uint64_t counter(std::size_t index) const { return rng->counters()[index].value; }
  void use_up() {
    ASSERT_EQ(request(Rng::kAllowance), Rng::kAllowance);
    rig.submit(0, {{kRigBuffers, 64, true}});
    ASSERT_EQ(rig.take_used(0), std::nullopt);
  }

  VirtioRig rig;
  Rng* rng = nullptr;
};

TEST_F(RngTest, FillsAllPartsOfARequest) {
  rig.start();
  std::set<std::string> seen;
  for (int i = 0; i < 10; ++i) {
    rig.submit(0, {{kRigBuffers, 100, true}, {kRigBuffers + 0x2000, 100, true}});
    const auto used = rig.take_used(0);
    ASSERT_TRUE(used);
    EXPECT_EQ(used->len, 200U);
    EXPECT_TRUE(seen.insert(rig.peek_text(kRigBuffers, 100)).second);
    EXPECT_TRUE(seen.insert(rig.peek_text(kRigBuffers + 0x2000, 100)).second);
  }
  EXPECT_TRUE(rig.is_dirty(kRigBuffers));
  EXPECT_TRUE(rig.is_dirty(kRigBuffers + 0x2000));
  EXPECT_EQ(counter(0), 2000U);
  EXPECT_EQ(counter(1), 0U);
}

TEST_F(RngTest, GivesNoMoreThanTheAllowanceInAPeriod) {
  rig.start();
  EXPECT_EQ(request(1000), 1000U);
  EXPECT_EQ(request(1 << 20), Rng::kAllowance - 1000) << "what is left";
  rig.submit(0, {{kRigBuffers, 64, true}});
  EXPECT_EQ(rig.take_used(0), std::nullopt);
  EXPECT_EQ(counter(1), 1U);
  rig.loop.advance(Rng::kPeriod - std::chrono::milliseconds(1));
  EXPECT_EQ(rig.take_used(0), std::nullopt);
  rig.loop.advance(std::chrono::milliseconds(1));
  EXPECT_EQ(rig.take_used(0)->len, 64U);
  EXPECT_EQ(request(1 << 20), Rng::kAllowance - 64);
}

TEST_F(RngTest, LetsTheLoopRestWhenNothingIsAskedFor) {
  EXPECT_FALSE(rig.loop.has_timer_set());
  rig.start();
  EXPECT_EQ(request(10), 10U);
  EXPECT_TRUE(rig.loop.has_timer_set());
  rig.loop.advance(Rng::kPeriod);
  EXPECT_FALSE(rig.loop.has_timer_set());
  EXPECT_EQ(request(Rng::kAllowance), Rng::kAllowance);
}

TEST_F(RngTest, RequestsWithoutRoomComeBackEmpty) {
  rig.start();
  EXPECT_EQ(request(0), 0U);
  rig.submit(0, {{kRigBuffers, 64}});
  EXPECT_EQ(rig.take_used(0)->len, 0U);
  EXPECT_EQ(counter(0), 0U);
  EXPECT_FALSE(rig.needs_reset());
}

TEST_F(RngTest, AResetNeitherRefillsTheAllowanceNorKeepsRequests) {
  rig.start();
  use_up();
  rig.write(VIRTIO_MMIO_STATUS, 0);
  rig.start();
  rig.submit(0, {{kRigBuffers, 32, true}});
  EXPECT_EQ(rig.take_used(0), std::nullopt);
  rig.loop.advance(Rng::kPeriod);
  EXPECT_EQ(rig.take_used(0)->len, 32U);
  EXPECT_EQ(rig.take_used(0), std::nullopt);
}

TEST_F(RngTest, AnswersNothingWhileStopped) {
  rig.start();
  use_up();
  rig.transport->quiesce();
  rig.loop.advance(Rng::kPeriod);
  EXPECT_EQ(rig.take_used(0), std::nullopt);
  rig.transport->resume();
  ASSERT_TRUE(rig.loop.settle());
  EXPECT_EQ(rig.take_used(0)->len, 64U);
}

TEST_F(RngTest, MovesWithARequestThatWaits) {
  rig.start();
  use_up();
  rig.transport->quiesce();
  const auto state = saved(*rig.transport);
  rig.transport.reset();
  rig.transport = MmioTransport::create(make_device(), rig.memory, rig.edge, rig.loop).value();
  expect_hostile_bytes_refused(*rig.transport, state);
  ASSERT_TRUE(restored(*rig.transport, state));
  EXPECT_EQ(saved(*rig.transport), state);
  rig.transport->resume();
  ASSERT_TRUE(rig.loop.settle());
  EXPECT_EQ(rig.take_used(0)->len, 64U);
}

TEST_F(RngTest, ABrokenRingNeedsAReset) {
  rig.start();
  rig.submit(0, {{0x1000, 64, true}});
  EXPECT_TRUE(rig.needs_reset());
  rig.loop.advance(Rng::kPeriod);
  EXPECT_EQ(rig.take_used(0), std::nullopt);
}

}  // namespace
}  // namespace vmm::virtio
