#include "base/checked.h"

#include <gtest/gtest.h>

#include <limits>

namespace vmm {
namespace {

constexpr std::uint64_t kMax = std::numeric_limits<std::uint64_t>::max();

TEST(CheckedTest, AddsWhatFits) {
  EXPECT_EQ(checked_add<std::uint64_t>(2, 3), 5u);
  EXPECT_EQ(checked_add<std::uint64_t>(kMax, 0), kMax);
  EXPECT_EQ(checked_add<std::uint64_t>(kMax - 1, 1), kMax);
  EXPECT_EQ(checked_add<std::uint64_t>(kMax, 1), std::nullopt);
  EXPECT_EQ(checked_add<std::uint64_t>(kMax, kMax), std::nullopt);
}

TEST(CheckedTest, AddsInTheWidthOfItsType) {
  EXPECT_EQ(checked_add<std::uint8_t>(200, 55), 255);
  EXPECT_EQ(checked_add<std::uint8_t>(200, 56), std::nullopt);
  EXPECT_EQ(checked_add<std::uint32_t>(0xffffffff, 1), std::nullopt);
}

TEST(CheckedTest, MultipliesWhatFits) {
  EXPECT_EQ(checked_mul<std::uint64_t>(6, 7), 42u);
  EXPECT_EQ(checked_mul<std::uint64_t>(kMax, 1), kMax);
  EXPECT_EQ(checked_mul<std::uint64_t>(kMax, 0), 0u);
  EXPECT_EQ(checked_mul<std::uint64_t>(1ull << 32, 1ull << 32), std::nullopt);
  EXPECT_EQ(checked_mul<std::uint8_t>(16, 16), std::nullopt);
}

TEST(CheckedTest, KnowsPowersOfTwo) {
  for (unsigned shift = 0; shift < 64; ++shift) {
    EXPECT_TRUE(is_power_of_two(1ull << shift));
    if (shift > 1) {
      EXPECT_FALSE(is_power_of_two((1ull << shift) - 1));
    }
  }
  EXPECT_FALSE(is_power_of_two(0));
  EXPECT_FALSE(is_power_of_two(kMax));
}

TEST(CheckedTest, RoundsUpToTheAlignment) {
  EXPECT_EQ(align_up(0, 4096), 0u);
  EXPECT_EQ(align_up(1, 4096), 4096u);
  EXPECT_EQ(align_up(4096, 4096), 4096u);
  EXPECT_EQ(align_up(4097, 4096), 8192u);
  EXPECT_EQ(align_up(7, 1), 7u);
  EXPECT_EQ(align_up(kMax & ~4095ull, 4096), kMax & ~4095ull);
  EXPECT_EQ(align_up(kMax, 4096), std::nullopt);
}

}  // namespace
}  // namespace vmm
