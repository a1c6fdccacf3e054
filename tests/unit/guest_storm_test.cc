// A guest that does what no guest should, all over the machine.
#include <gtest/gtest.h>

#include <array>
#include <random>

#include "device_fakes.h"
#include "devices/mmio_bus.h"
#include "devices/pl061.h"
#include "virtio_echo_fixture.h"
#include "vmm/exit_handler.h"

namespace vmm {
namespace {

using virtio::EchoFixture;

class GuestStormTest : public EchoFixture {
 protected:
  static constexpr std::uint64_t kBase = 0x900'0000;
  static constexpr std::uint64_t kStride = 0x1'0000;

  GuestStormTest() {
    pl011.set_on_rx_space([] {});
    EXPECT_TRUE(bus.add(kBase, Pl011::kWindow, pl011));
    EXPECT_TRUE(bus.add(kBase + kStride, Pl031::kWindow, pl031));
    EXPECT_TRUE(bus.add(kBase + 2 * kStride, Pl061::kWindow, pl061));
    EXPECT_TRUE(bus.add(kBase + 3 * kStride, virtio::MmioTransport::kWindow, *rig.transport));
  }

  FakeLine line;
  FakeSink sink;
  FakeClock clock;
  FakeTimer timer;
  Pl011 pl011{line, sink};
  Pl031 pl031{line, clock, timer};
  Pl061 pl061{line};
  MmioBus bus;
  ExitCounts counts;
};

// Neither a register's value nor the width or address of an access ends the process or the vCPU.
TEST_F(GuestStormTest, NoAccessEndsTheProcessOrTheVcpu) {
  std::mt19937_64 random(1);
  std::array<std::byte, 8> bytes{};
  for (int i = 0; i < 60'000; ++i) {
    const std::uint64_t value = random();
    // Small values are those that mean something; and one in eight lies anywhere at all.
    const std::uint64_t word = (value & 1) != 0 ? random() : random() % 32;
    std::memcpy(bytes.data(), &word, sizeof word);
    const auto data = std::span(bytes).first(std::size_t{1} << (value >> 1 & 3));
    std::uint64_t address = kBase + (value >> 3 & 3) * kStride + (value >> 8 & 0x1ff);
    if ((value >> 5 & 7) == 0) address = random() >> (value >> 17 & 63);
    const auto action = (value >> 7 & 1) != 0
                            ? handle_exit(kvm::MmioRead{address, data}, bus, counts)
                            : handle_exit(kvm::MmioWrite{address, data}, bus, counts);
    ASSERT_TRUE(action) << action.error().message();
    ASSERT_EQ(action.value(), VcpuAction::kContinue);
    if (i % 64 == 0) {
      (void)rig.loop.turn();
    }
  }
  EXPECT_GT(counts.unclaimed, 0U);
  // A driver that means well finds everything in order after a reset.
  rig.write(VIRTIO_MMIO_STATUS, 0);
  (void)rig.loop.settle();
  go_to(kStarted);
  expect_works();
}

}  // namespace
}  // namespace vmm
