#include "vmm/vcpu_throttle.h"

#include <gtest/gtest.h>

#include <mutex>
#include <random>
#include <vector>

namespace vmm {
namespace {

using namespace std::chrono_literals;
using Time = ThrottleSchedule::Time;
using Duration = ThrottleSchedule::Duration;

constexpr Time kBegin{1h};

// Follows a schedule for a minute, waking up late by what `late` says.
template <typename Late>
double share_held(unsigned percent, Late late, Duration* longest = nullptr) {
  ThrottleSchedule schedule(percent, kBegin);
  auto now = kBegin;
  Duration held{0};
  while (now < kBegin + 1min) {
    const auto phase = schedule.next(now);
    EXPECT_GE(phase.length, 0ns);
    EXPECT_LE(phase.length, ThrottleSchedule::kLongest);
    const auto took = phase.length + late();
    if (phase.held) held += took;
    if (phase.held && longest != nullptr) *longest = std::max(*longest, took);
    now += took;
  }
  return std::chrono::duration<double>(held) / std::chrono::duration<double>(now - kBegin);
}

TEST(ThrottleScheduleTest, HoldsTheShareInEachShortPeriod) {
  for (const unsigned percent : {1, 20, 50, 90, 99}) {
    ThrottleSchedule schedule(percent, kBegin);
    auto now = kBegin;
    for (int period = 0; period < 100; ++period) {
      const auto held = schedule.next(now);
      EXPECT_TRUE(held.held);
      EXPECT_NEAR(static_cast<double>(held.length.count()), percent * 0.2e6, 1000) << percent;
      now += held.length;
      const auto free = schedule.next(now);
      EXPECT_FALSE(free.held);
      EXPECT_NEAR(static_cast<double>(free.length.count()), (100 - percent) * 0.2e6, 1000)
          << percent;
      now += free.length;
    }
  }
}

TEST(ThrottleScheduleTest, KeepsTheShareThoughPhasesEndLate) {
  std::mt19937_64 random(1);
  for (const Duration latest : {Duration(0), Duration(50us), Duration(1ms), Duration(4ms)}) {
    for (const unsigned percent : {1, 5, 20, 50, 80, 95}) {
      const auto late = [&] {
        return Duration(static_cast<Duration::rep>(random() % (latest.count() + 1)));
      };
      EXPECT_NEAR(share_held(percent, late), percent / 100.0, 0.01)
          << percent << " % with " << latest.count() << " ns";
    }
  }
  // The guest gets its hundredth where the free phases are shorter than the lateness, too.
  EXPECT_NEAR(share_held(99, [] { return Duration(1ms); }), 0.99, 0.002);
}

TEST(ThrottleScheduleTest, MakesUpForNoMoreThanAMoment) {
  for (const unsigned percent : {1, 50, 99}) {
    ThrottleSchedule schedule(percent, kBegin);
    auto now = kBegin;
    for (int i = 0; i < 10; ++i) {
      // The process was stopped for an hour, in a phase of either kind.
      const auto phase = schedule.next(now);
      now += i == 3 || i == 6 ? Duration(1h) : phase.length;
    }
    // All is as it was.
    const auto first = schedule.next(now);
    EXPECT_NEAR(static_cast<double>(first.length.count()), percent * 0.2e6, 1000) << percent;
    now += first.length;
    EXPECT_NEAR(static_cast<double>(schedule.next(now).length.count()), (100 - percent) * 0.2e6,
                1000);
  }
}

// What a throttle tells the vCPUs.
class Holds {
 public:
  void add(bool held) {
    const std::lock_guard lock(mutex_);
    all_.push_back(held);
  }
  [[nodiscard]] std::vector<bool> all() const {
    const std::lock_guard lock(mutex_);
    return all_;
  }
  void wait_for_more(std::size_t count) const {
    const auto before = all().size();
    while (all().size() < before + count) std::this_thread::yield();
  }

 private:
  mutable std::mutex mutex_;
  std::vector<bool> all_;
};

TEST(VcpuThrottleTest, HoldsAndLetsGoInTurnsUntilItEnds) {
  Holds holds;
  VcpuThrottle throttle([&](bool held) { holds.add(held); });
  throttle.set(0);
  EXPECT_EQ(holds.all().size(), 0U);
  throttle.set(50);
  holds.wait_for_more(6);
  throttle.set(0);
  const auto all = holds.all();
  EXPECT_FALSE(all.back()) << "it lets go at the end";
  EXPECT_EQ(std::vector<bool>(all.begin(), all.begin() + 4),
            (std::vector{true, false, true, false}));
  std::this_thread::sleep_for(50ms);
  EXPECT_EQ(holds.all(), all);
}

TEST(VcpuThrottleTest, ChangesItsShareAndEndsInAnyPhase) {
  Holds holds;
  {
    VcpuThrottle throttle([&](bool held) { holds.add(held); });
    for (int i = 0; i < 50; ++i) {
      throttle.set(i % 2 == 0 ? 99 : 1);
      if (i % 3 == 0) holds.wait_for_more(1);
      if (i % 5 == 0) {
        throttle.set(0);
        const auto all = holds.all();
        EXPECT_TRUE(all.empty() || !all.back());
      }
    }
    holds.wait_for_more(1);
  }
  EXPECT_FALSE(holds.all().back());
}

}  // namespace
}  // namespace vmm
