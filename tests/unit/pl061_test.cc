#include "devices/pl061.h"

#include <gtest/gtest.h>

#include <random>
#include <thread>
#include <vector>

#include "device_fakes.h"
#include "devices/pl061_registers.h"

namespace vmm {
namespace {

using namespace pl061;

constexpr unsigned kPowerKey = 3;
constexpr std::uint32_t kPowerBit = 1 << kPowerKey;

// Offset of DATA for a set of lines.
constexpr std::uint64_t data(std::uint32_t lines) {
  return std::uint64_t{lines} << 2;
}

struct Gpio {
  FakeLine line;
  Pl061 device{line};
};

class Pl061Test : public ::testing::Test {
 protected:
  std::uint32_t read(std::uint64_t offset) {
    return static_cast<std::uint32_t>(mmio_read(gpio_.device, offset));
  }
  void write(std::uint64_t offset, std::uint32_t value) { mmio_write(gpio_.device, offset, value); }

  Gpio gpio_;
};

TEST_F(Pl061Test, HasTheResetValuesOfTheManual) {
  for (std::uint64_t offset = 0; offset < 0xfe0; offset += 4) EXPECT_EQ(read(offset), 0u) << offset;
  constexpr std::uint32_t kIds[8] = {0x61, 0x10, 0x04, 0x00, 0x0d, 0xf0, 0x05, 0xb1};
  for (std::uint64_t i = 0; i < 8; ++i) EXPECT_EQ(read(0xfe0 + 4 * i), kIds[i]);
  EXPECT_FALSE(gpio_.line.high);
}

TEST_F(Pl061Test, RegistersKeepTheirEightBits) {
  struct Register {
    std::uint64_t offset;
    std::uint32_t kept;
  };
  for (const auto& [offset, kept] : {Register{kDir, 0xff},
                                     {kIs, 0xff},
                                     {kIbe, 0xff},
                                     {kIev, 0xff},
                                     {kIe, 0xff},
                                     {kRis, 0},
                                     {kMis, 0},
                                     {kIc, 0},
                                     {kAfsel, 0xff},
                                     {0x424, 0},
                                     {0xfdc, 0},
                                     {0xfe0, 0x61}}) {
    write(offset, 0xffffffff);
    EXPECT_EQ(read(offset), kept) << offset;
    write(offset, 0);
  }
}

TEST_F(Pl061Test, OddAccessesReadZeroAndWriteNothing) {
  gpio_.device.set_input(0, true);
  write(kDir, 0xf0);
  const auto before = saved(gpio_.device);
  for (std::uint64_t offset = 0; offset < Pl061::kWindow; ++offset) {
    for (const std::size_t size : {1u, 2u, 4u, 8u}) {
      if (offset % 4 == 0 && size != 8) continue;
      EXPECT_EQ(mmio_read(gpio_.device, offset, size), 0u) << offset << " size " << size;
      mmio_write(gpio_.device, offset, ~0ull, size);
    }
  }
  EXPECT_EQ(saved(gpio_.device), before);
}

TEST_F(Pl061Test, AddressOfDataSelectsTheLinesRead) {
  gpio_.device.set_input(0, true);
  gpio_.device.set_input(7, true);
  for (std::uint32_t lines = 0; lines < 256; ++lines) {
    EXPECT_EQ(read(data(lines)), 0x81u & lines) << lines;
  }
}

TEST_F(Pl061Test, AddressOfDataSelectsTheLinesWritten) {
  write(kDir, 0xff);
  for (std::uint32_t lines = 0; lines < 256; ++lines) {
    write(data(0xff), 0x55);
    write(data(lines), 0xaa);
    EXPECT_EQ(read(data(0xff)), (0x55u & ~lines) | (0xaau & lines)) << lines;
  }
}

TEST_F(Pl061Test, OnlyOutputsAreWritten) {
  gpio_.device.set_input(1, true);
  write(kDir, 0xf0);
  write(data(0xff), 0xff);
  EXPECT_EQ(read(data(0xff)), 0xf2u);
  write(kDir, 0xff);
  EXPECT_EQ(read(data(0xff)), 0xf0u) << "inputs took nothing";
  write(kDir, 0x00);
  EXPECT_EQ(read(data(0xff)), 0x02u) << "outputs do not drive inputs";
}

TEST_F(Pl061Test, EdgesInterruptAsConfigured) {
  struct Case {
    const char* name;
    std::uint32_t both;
    std::uint32_t event;
    bool on_rise;
    bool on_fall;
  };
  const Case cases[] = {
      {"falling", 0, 0, false, true},
      {"rising", 0, 1, true, false},
      {"both, event low", 1, 0, true, true},
      {"both, event high", 1, 1, true, true},
  };
  for (unsigned line = 0; line < Pl061::kLines; ++line) {
    const std::uint32_t bit = 1u << line;
    for (const auto& [name, both, event, on_rise, on_fall] : cases) {
      gpio_.device.set_input(line, false);
      gpio_.device.reset();
      write(kIbe, both * bit);
      write(kIev, event * bit);
      write(kIe, bit);
      gpio_.device.set_input(line, true);
      EXPECT_EQ(read(kRis), on_rise ? bit : 0) << name;
      EXPECT_EQ(gpio_.line.high, on_rise) << name;
      write(kIc, bit);
      EXPECT_FALSE(gpio_.line.high) << name;
      gpio_.device.set_input(line, false);
      EXPECT_EQ(read(kMis), on_fall ? bit : 0) << name;
      EXPECT_EQ(gpio_.line.high, on_fall) << name;
    }
  }
}

TEST_F(Pl061Test, LevelsInterruptForAsLongAsTheyLast) {
  for (const bool active : {false, true}) {
    gpio_.device.set_input(kPowerKey, !active);
    gpio_.device.reset();
    write(kIs, kPowerBit);
    write(kIev, active ? kPowerBit : 0);
    write(kIe, kPowerBit);
    EXPECT_FALSE(gpio_.line.high);
    gpio_.device.set_input(kPowerKey, active);
    EXPECT_TRUE(gpio_.line.high);
    write(kIc, 0xff);
    EXPECT_TRUE(gpio_.line.high) << "a level cannot be cleared";
    gpio_.device.set_input(kPowerKey, !active);
    EXPECT_FALSE(gpio_.line.high);
    EXPECT_EQ(read(kRis), 0u);
  }
}

TEST_F(Pl061Test, LatchedEdgeDoesNotShowOnALevelSensitiveLine) {
  write(kIev, kPowerBit);
  write(kIe, kPowerBit);
  gpio_.device.set_input(kPowerKey, true);
  gpio_.device.set_input(kPowerKey, false);
  EXPECT_TRUE(gpio_.line.high);
  write(kIs, kPowerBit);
  EXPECT_EQ(read(kRis), 0u);
  EXPECT_FALSE(gpio_.line.high);
}

TEST_F(Pl061Test, PressedPowerKeyIsSeenBothWaysByLinux) {
  // gpio-keys: both edges, the handler clears the interrupt and reads the line.
  write(kIbe, kPowerBit);
  write(kIe, kPowerBit);
  gpio_.device.set_input(kPowerKey, true);
  EXPECT_EQ(read(kMis), kPowerBit);
  write(kIc, kPowerBit);
  EXPECT_EQ(read(data(kPowerBit)), kPowerBit);
  EXPECT_FALSE(gpio_.line.high);
  gpio_.device.set_input(kPowerKey, false);
  EXPECT_EQ(read(kMis), kPowerBit);
  write(kIc, kPowerBit);
  EXPECT_EQ(read(data(kPowerBit)), 0u);
}

TEST_F(Pl061Test, MaskedInterruptsShowInRisAlone) {
  write(kIev, 0xff);
  gpio_.device.set_input(5, true);
  EXPECT_EQ(read(kRis), 0x20u);
  EXPECT_EQ(read(kMis), 0u);
  EXPECT_FALSE(gpio_.line.high);
  write(kIe, 0x20);
  EXPECT_TRUE(gpio_.line.high);
}

TEST_F(Pl061Test, SameLevelAgainIsNoEdge) {
  write(kIbe, 0xff);
  write(kIe, 0xff);
  gpio_.device.set_input(2, false);
  EXPECT_FALSE(gpio_.line.high);
  gpio_.device.set_input(2, true);
  write(kIc, 0xff);
  gpio_.device.set_input(2, true);
  EXPECT_FALSE(gpio_.line.high);
}

TEST_F(Pl061Test, OutputsDoNotInterrupt) {
  write(kDir, 0xff);
  write(kIbe, 0xff);
  write(kIe, 0xff);
  gpio_.device.set_input(2, true);
  write(data(0xff), 0xff);
  EXPECT_EQ(read(kRis), 0u);
  write(kIev, 0xff);
  write(kIs, 0xff);
  EXPECT_EQ(read(kRis), 0u);
}

TEST_F(Pl061Test, LineIsHighUntilTheLastInterruptIsCleared) {
  write(kIev, 0xff);
  write(kIe, 0xff);
  gpio_.device.set_input(0, true);
  gpio_.device.set_input(1, true);
  write(kIc, 1);
  EXPECT_TRUE(gpio_.line.high);
  write(kIc, 2);
  EXPECT_FALSE(gpio_.line.high);
  EXPECT_EQ(gpio_.line.calls, 2) << "only when the level changes";
}

TEST_F(Pl061Test, ResetKeepsTheInputs) {
  const auto fresh = saved(gpio_.device);
  gpio_.device.set_input(kPowerKey, true);
  write(kIs, 0xff);
  write(kIev, 0xff);
  write(kIe, 0xff);
  write(kDir, 0x0f);
  write(data(0xff), 0xff);
  write(kAfsel, 0xff);
  write(kDir, 0);
  EXPECT_TRUE(gpio_.line.high);
  gpio_.device.reset();
  EXPECT_FALSE(gpio_.line.high);
  EXPECT_EQ(read(data(0xff)), kPowerBit);
  gpio_.device.set_input(kPowerKey, false);
  gpio_.device.reset();
  EXPECT_EQ(saved(gpio_.device), fresh);
}

TEST(Pl061DeathTest, AbortsOnALineThatDoesNotExist) {
  Gpio gpio;
  EXPECT_DEATH(gpio.device.set_input(8, true), "");
}

TEST(Pl061StateTest, SurvivesTheMoveAfterAnyAccesses) {
  std::mt19937_64 random(61);
  for (int round = 0; round < 500; ++round) {
    Gpio source;
    for (std::uint64_t step = random() % 60; step-- > 0;) {
      switch (random() % 3) {
        case 0:
          source.device.set_input(random() % 8, random() % 2 == 0);
          break;
        case 1:
          mmio_write(source.device, data(random() % 256), random());
          break;
        default:
          mmio_write(source.device, kDir + random() % 9 * 4, random());
      }
    }
    const auto state = saved(source.device);
    Gpio target;
    target.line.high = !source.line.high;
    ASSERT_TRUE(restored(target.device, state));
    EXPECT_EQ(saved(target.device), state);
    EXPECT_EQ(target.line.high, source.line.high);
    for (std::uint64_t offset = 0; offset < Pl061::kWindow; offset += 4) {
      EXPECT_EQ(mmio_read(target.device, offset), mmio_read(source.device, offset));
    }
    if (::testing::Test::HasFailure()) break;
  }
}

TEST(Pl061StateTest, RefusesHostileBytesAndKeepsItsState) {
  Gpio source;
  mmio_write(source.device, kDir, 0xff);
  const auto good = saved(source.device);
  ASSERT_EQ(good.size(), 13u);
  Gpio gpio;
  gpio.device.set_input(1, true);
  expect_hostile_bytes_refused(gpio.device, good);
}

TEST(Pl061StateTest, SaysWhichVersionItKnows) {
  Gpio gpio;
  auto bytes = saved(gpio.device);
  bytes[0] = std::byte{9};
  ByteReader reader(bytes);
  const auto result = gpio.device.restore(reader);
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().message(), "state of pl061 has version 9, this program knows version 1");
}

TEST(Pl061ThreadTest, MayBeUsedByManyThreads) {
  Gpio gpio;
  mmio_write(gpio.device, kIbe, 0xff);
  mmio_write(gpio.device, kIe, 0xff);
  std::vector<std::thread> threads;
  for (unsigned line = 0; line < 3; ++line) {
    threads.emplace_back([&, line] {
      for (int i = 0; i < 2000; ++i) gpio.device.set_input(line, i % 2 == 0);
    });
  }
  threads.emplace_back([&] {
    for (int i = 0; i < 2000; ++i) mmio_write(gpio.device, kIc, 0xff);
  });
  threads.emplace_back([&] {
    for (int i = 0; i < 200; ++i) static_cast<void>(saved(gpio.device));
  });
  for (auto& thread : threads) thread.join();
  // Each line ends low, and the interrupt line agrees with the registers.
  EXPECT_EQ(mmio_read(gpio.device, data(0xff)), 0u);
  EXPECT_EQ(gpio.line.high, mmio_read(gpio.device, kMis) != 0);
}

}  // namespace
}  // namespace vmm
