#include "devices/pl031.h"

#include <gtest/gtest.h>

#include <limits>
#include <random>
#include <thread>
#include <vector>

#include "device_fakes.h"
#include "devices/pl031_registers.h"

namespace vmm {
namespace {

using namespace pl031;

struct Rtc {
  FakeLine line;
  FakeClock clock;
  FakeTimer timer;
  Pl031 device{line, clock, timer};
};

class Pl031Test : public ::testing::Test {
 protected:
  std::uint32_t read(std::uint64_t offset) {
    return static_cast<std::uint32_t>(mmio_read(rtc_.device, offset));
  }
  void write(std::uint64_t offset, std::uint32_t value) { mmio_write(rtc_.device, offset, value); }
  // Lets time pass as the event loop does: the timer goes off when it is due.
  void advance(std::int64_t seconds) {
    rtc_.clock.now += seconds;
    if (rtc_.timer.deadline && *rtc_.timer.deadline <= rtc_.clock.now) {
      rtc_.timer.deadline.reset();
      rtc_.device.on_alarm();
    }
  }

  Rtc rtc_;
};

TEST_F(Pl031Test, HasTheResetValuesOfTheManualAndRuns) {
  struct Register {
    std::uint64_t offset;
    std::uint32_t value;
  };
  const Register registers[] = {
      {0x000, 1'700'000'000},  // DR: the wall clock
      {0x004, 0},              // MR
      {0x008, 0},              // LR
      {0x00c, 1},              // CR
      {0x010, 0},              // IMSC
      {0x014, 0},              // RIS
      {0x018, 0},              // MIS
      {0x01c, 0},              // ICR is write-only
      {0xfe0, 0x31},
      {0xfe4, 0x10},
      {0xfe8, 0x04},
      {0xfec, 0x00},
      {0xff0, 0x0d},
      {0xff4, 0xf0},
      {0xff8, 0x05},
      {0xffc, 0xb1},
  };
  for (const auto& [offset, value] : registers) EXPECT_EQ(read(offset), value) << offset;
  EXPECT_FALSE(rtc_.line.high);
  EXPECT_EQ(rtc_.timer.deadline, std::nullopt);
}

TEST_F(Pl031Test, RegistersKeepTheBitsThatExist) {
  struct Register {
    std::uint64_t offset;
    std::uint32_t kept;
  };
  // The interrupt is cleared before its status is looked at: the two times set here are the same.
  for (const auto& [offset, kept] : {Register{kMr, 0xffffffff},
                                     {kLr, 0xffffffff},
                                     {kCr, 1},
                                     {kImsc, 1},
                                     {kIcr, 0},
                                     {kRis, 0},
                                     {kMis, 0},
                                     {0x020, 0},
                                     {0xfdc, 0},
                                     {0xfe0, 0x31}}) {
    write(offset, 0xffffffff);
    EXPECT_EQ(read(offset), kept) << offset;
  }
  write(kCr, 0);
  EXPECT_EQ(read(kCr), kCrStart) << "cannot be stopped";
}

TEST_F(Pl031Test, OddAccessesReadZeroAndWriteNothing) {
  const auto before = saved(rtc_.device);
  for (std::uint64_t offset = 0; offset < Pl031::kWindow; ++offset) {
    for (const std::size_t size : {1u, 2u, 4u, 8u}) {
      if (offset % 4 == 0 && size != 8) continue;
      EXPECT_EQ(mmio_read(rtc_.device, offset, size), 0u) << offset << " size " << size;
      mmio_write(rtc_.device, offset, ~0ull, size);
    }
  }
  EXPECT_EQ(saved(rtc_.device), before);
}

TEST_F(Pl031Test, CountsSecondsOfTheWallClock) {
  advance(5);
  EXPECT_EQ(read(kDr), 1'700'000'005u);
  rtc_.clock.now -= 100;
  EXPECT_EQ(read(kDr), 1'699'999'905u) << "the host's clock was set back";
}

TEST_F(Pl031Test, CountsOnFromTheTimeTheGuestSets) {
  write(kLr, 1000);
  EXPECT_EQ(read(kDr), 1000u);
  EXPECT_EQ(read(kLr), 1000u);
  advance(7);
  EXPECT_EQ(read(kDr), 1007u);
  EXPECT_EQ(read(kLr), 1000u);
}

TEST_F(Pl031Test, WrapsAroundAfter32Bits) {
  write(kLr, 0xffffffff);
  advance(1);
  EXPECT_EQ(read(kDr), 0u);
  rtc_.clock.now = (std::int64_t{1} << 32) + 5;
  rtc_.device.reset();
  write(kLr, 3);
  EXPECT_EQ(read(kDr), 3u);
}

TEST_F(Pl031Test, AlarmRaisesTheInterruptAtItsSecond) {
  write(kMr, 1'700'000'010);
  EXPECT_EQ(rtc_.timer.deadline, std::nullopt) << "masked: nobody waits for it";
  write(kImsc, kInterrupt);
  EXPECT_EQ(rtc_.timer.deadline, 1'700'000'010);
  advance(9);
  EXPECT_FALSE(rtc_.line.high);
  EXPECT_EQ(read(kRis), 0u);
  advance(1);
  EXPECT_TRUE(rtc_.line.high);
  EXPECT_EQ(read(kMis), kInterrupt);
  EXPECT_EQ(rtc_.timer.deadline, std::nullopt);
}

TEST_F(Pl031Test, AlarmIsClearedByHandAndDoesNotComeBack) {
  write(kImsc, kInterrupt);
  write(kMr, 1'700'000'010);
  advance(10);
  write(kIcr, 0);
  EXPECT_TRUE(rtc_.line.high);
  write(kIcr, kInterrupt);
  EXPECT_FALSE(rtc_.line.high);
  advance(1000);
  EXPECT_FALSE(rtc_.line.high);
  EXPECT_EQ(rtc_.timer.deadline, 1'700'000'010 + (std::int64_t{1} << 32)) << "when it wraps around";
}

TEST_F(Pl031Test, MaskedAlarmShowsInRisAlone) {
  write(kMr, 1'700'000'010);
  advance(20);
  EXPECT_EQ(read(kRis), kInterrupt);
  EXPECT_EQ(read(kMis), 0u);
  EXPECT_FALSE(rtc_.line.high);
  write(kImsc, kInterrupt);
  EXPECT_TRUE(rtc_.line.high);
  write(kImsc, 0);
  EXPECT_FALSE(rtc_.line.high);
}

TEST_F(Pl031Test, AlarmForThisVerySecondIsNow) {
  write(kImsc, kInterrupt);
  write(kMr, 1'700'000'000);
  EXPECT_TRUE(rtc_.line.high);
}

TEST_F(Pl031Test, AlarmForThePastIsForTheNextTimeAround) {
  write(kImsc, kInterrupt);
  write(kMr, 1'699'999'999);
  EXPECT_FALSE(rtc_.line.high);
  EXPECT_EQ(rtc_.timer.deadline, 1'699'999'999 + (std::int64_t{1} << 32));
}

TEST_F(Pl031Test, AlarmFollowsTheTimeTheGuestSets) {
  write(kImsc, kInterrupt);
  write(kMr, 1'700'000'100);
  write(kLr, 1'700'000'090);
  EXPECT_EQ(rtc_.timer.deadline, 1'700'000'010);
  advance(10);
  EXPECT_TRUE(rtc_.line.high);
}

TEST_F(Pl031Test, TimerThatComesTooEarlyIsSetAgain) {
  write(kImsc, kInterrupt);
  write(kMr, 1'700'000'010);
  rtc_.clock.now += 4;
  rtc_.timer.deadline.reset();
  rtc_.device.on_alarm();
  EXPECT_FALSE(rtc_.line.high);
  EXPECT_EQ(rtc_.timer.deadline, 1'700'000'010);
}

TEST_F(Pl031Test, TimerThatComesUnaskedDoesNothing) {
  rtc_.device.on_alarm();
  EXPECT_FALSE(rtc_.line.high);
  EXPECT_EQ(rtc_.timer.deadline, std::nullopt);
}

TEST_F(Pl031Test, LeavesTheTimerAloneWhileTheAlarmStays) {
  write(kImsc, kInterrupt);
  write(kMr, 1'700'000'010);
  const int calls = rtc_.timer.calls;
  for (int i = 0; i < 10; ++i) static_cast<void>(read(kDr));
  EXPECT_EQ(rtc_.timer.calls, calls);
}

TEST_F(Pl031Test, ResetKeepsTheTimeAndForgetsTheAlarm) {
  write(kLr, 1000);
  write(kMr, 1000);
  write(kImsc, kInterrupt);
  EXPECT_TRUE(rtc_.line.high);
  rtc_.device.reset();
  EXPECT_FALSE(rtc_.line.high);
  EXPECT_EQ(read(kDr), 1000u);
  EXPECT_EQ(read(kMr), 0u);
  EXPECT_EQ(read(kLr), 0u);
  EXPECT_EQ(read(kImsc), 0u);
  EXPECT_EQ(read(kRis), 0u);
  EXPECT_EQ(rtc_.timer.deadline, std::nullopt);
}

TEST(Pl031StateTest, WallClockIsRightAfterTheMove) {
  Rtc source;
  mmio_write(source.device, kLr, 5000);
  Rtc target;
  target.clock.now = source.clock.now + 40;
  ASSERT_TRUE(restored(target.device, saved(source.device)));
  EXPECT_EQ(mmio_read(target.device, kDr), 5040u);
}

TEST(Pl031StateTest, AlarmThatCameDueOnTheWayGoesOffAtTheTarget) {
  Rtc source;
  mmio_write(source.device, kImsc, 1);
  mmio_write(source.device, kMr, 1'700'000'010);
  const auto state = saved(source.device);

  Rtc early;
  ASSERT_TRUE(restored(early.device, state));
  EXPECT_FALSE(early.line.high);
  EXPECT_EQ(early.timer.deadline, 1'700'000'010);

  Rtc late;
  late.clock.now = 1'700'000'011;
  ASSERT_TRUE(restored(late.device, state));
  EXPECT_TRUE(late.line.high);
  EXPECT_EQ(late.timer.deadline, std::nullopt);
}

TEST(Pl031StateTest, RestoreTakesTheOldAlarmOffTheTimer) {
  Rtc target;
  mmio_write(target.device, kImsc, 1);
  mmio_write(target.device, kMr, 1'700'000'010);
  const Rtc source;
  ASSERT_TRUE(restored(target.device, saved(source.device)));
  EXPECT_EQ(target.timer.deadline, std::nullopt);
}

TEST(Pl031StateTest, SurvivesTheMoveAfterAnyAccesses) {
  std::mt19937_64 random(31);
  for (int round = 0; round < 500; ++round) {
    Rtc source;
    for (std::uint64_t step = random() % 30; step-- > 0;) {
      auto value = static_cast<std::uint32_t>(random());
      if (random() % 2 == 0) value = static_cast<std::uint32_t>(1'700'000'000 + random() % 40);
      mmio_write(source.device, random() % 8 * 4, value);
      source.clock.now += static_cast<std::int64_t>(random() % 4);
    }
    const auto state = saved(source.device);
    Rtc target;
    target.clock.now = source.clock.now;
    target.line.high = true;
    ASSERT_TRUE(restored(target.device, state));
    // A match that has come since the last access shows at the next one, here at once.
    static_cast<void>(mmio_read(source.device, kRis));
    EXPECT_EQ(saved(target.device), saved(source.device));
    EXPECT_EQ(target.line.high, source.line.high);
    EXPECT_EQ(target.timer.deadline, source.timer.deadline);
    for (std::uint64_t offset = 0; offset < Pl031::kWindow; offset += 4) {
      EXPECT_EQ(mmio_read(target.device, offset), mmio_read(source.device, offset));
    }
    if (::testing::Test::HasFailure()) break;
  }
}

TEST(Pl031StateTest, RefusesHostileBytesAndKeepsItsState) {
  Rtc source;
  mmio_write(source.device, kImsc, 1);
  mmio_write(source.device, kMr, 1'700'000'010);
  const auto good = saved(source.device);
  ASSERT_EQ(good.size(), 26u);

  Rtc rtc;
  mmio_write(rtc.device, kLr, 77);
  expect_hostile_bytes_refused(rtc.device, good);
  // The deadline must be a second at which the counter equals the match register, and one that
  // timers can be set to.
  expect_field_refused<std::uint32_t>(rtc.device, good, 4, 1);
  expect_field_refused<std::uint32_t>(rtc.device, good, 8, 1'700'000'011);
  constexpr std::int64_t kDue = 1'700'000'010;
  constexpr std::int64_t kTurn = std::int64_t{1} << 32;
  constexpr auto kMin = std::numeric_limits<std::int64_t>::min();
  constexpr auto kMax = std::numeric_limits<std::int64_t>::max();
  for (const std::int64_t deadline :
       {std::int64_t{0}, kDue - 1, kDue - kTurn, kDue + 2 * kTurn, kMin, kMax}) {
    expect_field_refused<std::int64_t>(rtc.device, good, 16, deadline);
  }
  expect_field_refused<std::uint8_t>(rtc.device, good, 24, 2);
  expect_field_refused<std::uint8_t>(rtc.device, good, 25, 0xff);
  EXPECT_EQ(rtc.timer.deadline, std::nullopt);
}

TEST(Pl031ThreadTest, MayBeUsedByManyThreads) {
  Rtc rtc;
  std::vector<std::thread> threads;
  threads.emplace_back([&] {
    for (int i = 0; i < 2000; ++i) mmio_write(rtc.device, kMr, 1'700'000'000);
  });
  threads.emplace_back([&] {
    for (int i = 0; i < 2000; ++i) mmio_write(rtc.device, kIcr, 1);
  });
  threads.emplace_back([&] {
    for (int i = 0; i < 2000; ++i) EXPECT_EQ(mmio_read(rtc.device, kDr), 1'700'000'000u);
  });
  threads.emplace_back([&] {
    for (int i = 0; i < 2000; ++i) rtc.device.on_alarm();
  });
  threads.emplace_back([&] {
    for (int i = 0; i < 200; ++i) static_cast<void>(saved(rtc.device));
  });
  for (auto& thread : threads) thread.join();
}

}  // namespace
}  // namespace vmm
