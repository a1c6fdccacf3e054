#include "devices/mmio_bus.h"

#include <gtest/gtest.h>

#include <limits>
#include <vector>

namespace vmm {
namespace {

constexpr std::uint64_t kMax = std::numeric_limits<std::uint64_t>::max();

// Remembers the last access.
class Recorder final : public MmioDevice {
 public:
  void mmio_read(std::uint64_t offset, std::span<std::byte> data) override {
    last_offset = offset;
    last_size = data.size();
    ++reads;
    for (std::byte& byte : data) byte = std::byte{0x5a};
  }
  void mmio_write(std::uint64_t offset, std::span<const std::byte> data) override {
    last_offset = offset;
    last_size = data.size();
    ++writes;
  }
  std::uint64_t last_offset = 0;
  std::size_t last_size = 0;
  int reads = 0;
  int writes = 0;
};

TEST(MmioBusTest, PassesAccessesOnWithTheirOffset) {
  MmioBus bus;
  Recorder uart;
  Recorder rtc;
  ASSERT_TRUE(bus.add(0x901'0000, 0x1000, rtc));
  ASSERT_TRUE(bus.add(0x900'0000, 0x1000, uart));

  std::byte data[4]{};
  EXPECT_TRUE(bus.read(0x900'0018, data));
  EXPECT_EQ(data[3], std::byte{0x5a});
  EXPECT_EQ(uart.last_offset, 0x18u);
  EXPECT_EQ(uart.last_size, 4u);
  EXPECT_TRUE(bus.write(0x901'0ffc, std::span(data).first(2)));
  EXPECT_EQ(rtc.last_offset, 0xffcu);
  EXPECT_EQ(rtc.last_size, 2u);
  EXPECT_EQ(uart.reads, 1);
  EXPECT_EQ(uart.writes, 0);
  EXPECT_EQ(rtc.reads, 0);
  EXPECT_EQ(rtc.writes, 1);
}

TEST(MmioBusTest, OnlyAWindowThatHoldsAllOfAnAccessAnswers) {
  struct Case {
    const char* name;
    std::uint64_t address;
    std::size_t size;
    bool answered;
  };
  const Case cases[] = {
      {"first byte", 0x1000, 1, true},
      {"last byte", 0x1fff, 1, true},
      {"last eight bytes", 0x1ff8, 8, true},
      {"byte below", 0xfff, 1, false},
      {"byte behind", 0x2000, 1, false},
      {"across the start", 0xffe, 4, false},
      {"across the end", 0x1ffe, 4, false},
      {"across the end into a neighbour", 0x3ffc, 8, false},
      {"top of the address space", kMax, 1, false},
      {"over the top of the address space", kMax - 1, 8, false},
      {"address zero", 0, 8, false},
      {"nothing", 0x1000, 0, false},
  };
  MmioBus bus;
  Recorder device;
  ASSERT_TRUE(bus.add(0x1000, 0x1000, device));
  ASSERT_TRUE(bus.add(0x3000, 0x1000, device));
  ASSERT_TRUE(bus.add(0x4000, 0x1000, device));
  for (const auto& [name, address, size, answered] : cases) {
    std::vector<std::byte> data(size, std::byte{0x11});
    device = Recorder{};
    EXPECT_EQ(bus.read(address, data), answered) << name;
    EXPECT_EQ(bus.write(address, data), answered) << name;
    EXPECT_EQ(device.reads, answered ? 1 : 0) << name;
    EXPECT_EQ(device.writes, answered ? 1 : 0) << name;
    if (!answered) {
      EXPECT_EQ(data, std::vector<std::byte>(size, std::byte{0x11})) << name;
    }
  }
}

TEST(MmioBusTest, AnEmptyBusAnswersNothing) {
  const MmioBus bus;
  std::byte data[1]{};
  EXPECT_FALSE(bus.read(0, data));
  EXPECT_FALSE(bus.write(kMax, data));
  EXPECT_EQ(bus.find(0x1000, 4).device, nullptr);
}

TEST(MmioBusTest, RefusesWindowsThatOverlapOrCannotBe) {
  struct Case {
    const char* name;
    std::uint64_t base;
    std::uint64_t size;
    bool accepted;
  };
  const Case cases[] = {
      {"right below", 0xf00, 0x100, true},
      {"right behind", 0x2000, 0x100, true},
      {"the same", 0x1000, 0x1000, false},
      {"inside", 0x1400, 0x10, false},
      {"around", 0x800, 0x2000, false},
      {"last byte on its first", 0xf00, 0x101, false},
      {"first byte on its last", 0x1fff, 0x10, false},
      {"empty", 0x5000, 0, false},
      {"empty at zero", 0, 0, false},
      {"over the top", kMax, 2, false},
      {"all of the address space", 0, kMax, false},
      {"wraps around to it", kMax - 0xfff, 0x4000, false},
      {"ends at the top", kMax - 0xfff, 0x1000, true},
  };
  for (const auto& [name, base, size, accepted] : cases) {
    MmioBus bus;
    Recorder device;
    ASSERT_TRUE(bus.add(0x1000, 0x1000, device));
    EXPECT_EQ(bus.add(base, size, device).has_value(), accepted) << name;
    EXPECT_EQ(bus.find(0x1000, 4).device, &device) << name;
  }
}

TEST(MmioBusTest, WindowMayEndAtTheTopOfTheAddressSpace) {
  MmioBus bus;
  Recorder device;
  ASSERT_TRUE(bus.add(kMax - 0xfff, 0x1000, device));
  EXPECT_EQ(bus.find(kMax, 1).offset, 0xfffu);
  EXPECT_EQ(bus.find(kMax, 1).device, &device);
  EXPECT_EQ(bus.find(kMax, 2).device, nullptr);
}

TEST(MmioBusTest, SaysWhichAddressesOverlap) {
  MmioBus bus;
  Recorder device;
  ASSERT_TRUE(bus.add(0x1000, 0x1000, device));
  const auto result = bus.add(0x1800, 0x1000, device);
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().message(), "device addresses 0x1800-0x27ff overlap 0x1000-0x1fff");
}

TEST(MmioBusTest, FindsEachOfManyDevices) {
  MmioBus bus;
  std::vector<Recorder> devices(64);
  // Added from both ends, so that insertion happens everywhere.
  for (std::size_t i = 0; i < 32; ++i) {
    ASSERT_TRUE(bus.add(0xa00'0000 + 0x200 * i, 0x200, devices[i]));
    ASSERT_TRUE(bus.add(0xa00'0000 + 0x200 * (63 - i), 0x200, devices[63 - i]));
  }
  for (std::size_t i = 0; i < 64; ++i) {
    const auto [device, offset] = bus.find(0xa00'0000 + 0x200 * i + 0x70, 4);
    EXPECT_EQ(device, &devices[i]);
    EXPECT_EQ(offset, 0x70u);
  }
}

}  // namespace
}  // namespace vmm
