#include "migration/rate_limiter.h"

#include <gtest/gtest.h>

#include <random>
#include <thread>

namespace vmm::migration {
namespace {

using namespace std::chrono_literals;

constexpr std::uint64_t kMiB = 1 << 20;

TEST(TokenBucketTest, NeverWaitsWithoutALimit) {
  TokenBucket bucket;
  const TokenBucket::Time now{1h};
  for (int i = 0; i < 100; ++i) EXPECT_EQ(bucket.take(kMiB, now), 0ns);
}

TEST(TokenBucketTest, KeepsToTheRateWhateverThePieces) {
  std::mt19937_64 random(1);
  for (const std::uint64_t rate : {kMiB, 100 * kMiB, 10'000 * kMiB}) {
    for (const std::uint64_t piece : {std::uint64_t{24}, std::uint64_t{4120}, kMiB}) {
      TokenBucket bucket;
      bucket.set_rate(rate);
      const TokenBucket::Time begin{1h};
      auto now = begin;
      const auto until = begin + 20s;
      std::uint64_t sent = 0;
      for (int i = 0; now < until && i < 2'000'000; ++i) {
        const std::uint64_t bytes = 1 + random() % (2 * piece);
        // What the caller does with its time does not count on top.
        now += bucket.take(bytes, now);
        sent += bytes;
      }
      const double seconds = std::chrono::duration<double>(now - begin).count();
      const double allowed = static_cast<double>(rate) * seconds;
      // The last piece is on its way, and 10 ms were saved up at the start.
      EXPECT_LE(static_cast<double>(sent),
                allowed + 2.0 * static_cast<double>(piece) + 0.01 * static_cast<double>(rate) + 1);
      EXPECT_GE(static_cast<double>(sent), 0.999 * allowed);
    }
  }
}

TEST(TokenBucketTest, SavesUpNoMoreThanTenMilliseconds) {
  TokenBucket bucket;
  bucket.set_rate(1000);
  EXPECT_EQ(bucket.take(1000, TokenBucket::Time{1h}), 0ns);
  // Idle for a minute: 10 bytes are free, and the next pay.
  EXPECT_EQ(bucket.take(10, TokenBucket::Time{1h + 1min}), 0ns);
  EXPECT_EQ(bucket.take(100, TokenBucket::Time{1h + 1min}), 0ns);
  EXPECT_EQ(bucket.take(1, TokenBucket::Time{1h + 1min}), 100ms);
}

TEST(TokenBucketTest, PaysOffAtTheNewRate) {
  TokenBucket bucket;
  const TokenBucket::Time now{1h};
  bucket.set_rate(1000);
  (void)bucket.take(1010, now);
  bucket.set_rate(10'000);
  EXPECT_EQ(bucket.take(1000, now), 100ms);
  EXPECT_EQ(bucket.take(0, now), 200ms);
  bucket.set_rate(0);
  EXPECT_EQ(bucket.take(1000, now), 0ns);
}

TEST(RateLimiterTest, IsInterruptedWhileItWaits) {
  RateLimiter limiter(1);
  EXPECT_TRUE(limiter.acquire(1'000'000));
  std::jthread interrupter([&] { limiter.interrupt(); });
  EXPECT_FALSE(limiter.acquire(1));
  EXPECT_FALSE(limiter.acquire(1));
}

TEST(RateLimiterTest, LetsEverythingThroughWithoutALimit) {
  RateLimiter limiter(1);
  limiter.set_rate(0);
  for (int i = 0; i < 1000; ++i) EXPECT_TRUE(limiter.acquire(kMiB));
}

}  // namespace
}  // namespace vmm::migration
