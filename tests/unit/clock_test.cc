#include "devices/clock.h"

#include <gtest/gtest.h>

#include <ctime>

namespace vmm {
namespace {

TEST(ClockTest, SystemClockTellsSecondsSince1970) {
  const SystemClock clock;
  const auto before = static_cast<std::int64_t>(std::time(nullptr));
  const std::int64_t now = clock.wall_seconds();
  const auto after = static_cast<std::int64_t>(std::time(nullptr));
  // time() may be a clock tick behind.
  EXPECT_LE(before, now);
  EXPECT_LE(now, after + 1);
}

}  // namespace
}  // namespace vmm
