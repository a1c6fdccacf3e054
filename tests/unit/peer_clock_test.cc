#include "migration/peer_clock.h"

#include <gtest/gtest.h>

namespace vmm::migration {
namespace {

using namespace std::chrono_literals;

constexpr PeerClock::Clock::time_point kOurs{5h};

TEST(PeerClockTest, GoesByTheAnswerThatCameQuickest) {
  PeerClock clock;
  clock.learn(kOurs, 105ms, kOurs + 10ms);
  EXPECT_EQ(clock.at(kOurs + 5ms), 105ms);
  EXPECT_EQ(clock.at(kOurs + 25ms), 125ms);
  EXPECT_EQ(clock.at(kOurs), 100ms);
  clock.learn(kOurs + 20ms, 121ms, kOurs + 22ms);
  EXPECT_EQ(clock.at(kOurs), 100ms);
  clock.learn(kOurs + 30ms, 180ms, kOurs + 90ms);
  EXPECT_EQ(clock.at(kOurs), 100ms) << "this one may be off by 30 ms";
  clock.learn(kOurs + 90ms, 191ms, kOurs + 90ms);
  EXPECT_EQ(clock.at(kOurs), 101ms);
}

TEST(PeerClockTest, IsStaleUntilThereIsAnAnswerAndAMinuteLater) {
  PeerClock clock;
  EXPECT_TRUE(clock.is_stale(kOurs));
  clock.learn(kOurs, 0ms, kOurs + 2ms);
  EXPECT_FALSE(clock.is_stale(kOurs + 1min));
  EXPECT_TRUE(clock.is_stale(kOurs + 1min + 2ms));
}

TEST(PeerClockTest, ShowsNothingBeforeItsBeginning) {
  PeerClock clock;
  clock.learn(kOurs, 1ms, kOurs);
  EXPECT_EQ(clock.at(kOurs - 1h), 0ms);
}

}  // namespace
}  // namespace vmm::migration
