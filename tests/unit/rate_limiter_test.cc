#include "migration/rate_limiter.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <thread>
#include <utility>
#include <vector>

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
      // The last piece is on its way, and 20 ms were saved up at the start.
      EXPECT_LE(static_cast<double>(sent),
                allowed + 2.0 * static_cast<double>(piece) + 0.02 * static_cast<double>(rate) + 1);
      EXPECT_GE(static_cast<double>(sent), 0.999 * allowed);
    }
  }
}

TEST(TokenBucketTest, SavesUpNoMoreThanTwentyMilliseconds) {
  TokenBucket bucket;
  bucket.set_rate(1000);
  EXPECT_EQ(bucket.take(1000, TokenBucket::Time{1h}), 0ns);
  // Idle for a minute: 20 bytes are free, and the next pay.
  EXPECT_EQ(bucket.take(20, TokenBucket::Time{1h + 1min}), 0ns);
  EXPECT_EQ(bucket.take(100, TokenBucket::Time{1h + 1min}), 0ns);
  EXPECT_EQ(bucket.take(1, TokenBucket::Time{1h + 1min}), 100ms);
}

TEST(TokenBucketTest, PaysOffAtTheNewRate) {
  TokenBucket bucket;
  const TokenBucket::Time now{1h};
  bucket.set_rate(1000);
  (void)bucket.take(1020, now);
  bucket.set_rate(10'000);
  EXPECT_EQ(bucket.take(1000, now), 100ms);
  EXPECT_EQ(bucket.take(0, now), 200ms);
  bucket.set_rate(0);
  EXPECT_EQ(bucket.take(1000, now), 0ns);
}

TEST(TokenBucketTest, CutsWhatIsLargeForTheRate) {
  TokenBucket bucket;
  EXPECT_EQ(bucket.piece(kMiB), kMiB) << "without a limit";
  bucket.set_rate(1000 * kMiB);
  EXPECT_EQ(bucket.piece(kMiB), kMiB);
  EXPECT_EQ(bucket.piece(100 * kMiB), 10 * kMiB);
  bucket.set_rate(10 * kMiB);
  EXPECT_EQ(bucket.piece(kMiB), kMiB / 10);
  EXPECT_EQ(bucket.piece(24), 24U);
  bucket.set_rate(1);
  EXPECT_EQ(bucket.piece(kMiB), 4096U);
  EXPECT_EQ(bucket.piece(24), 24U);
}

// Channels that share a limiter, each as RamSender drives it: batches cut into pieces, waits that
// end late, and writes that take their time. Clock and chance are the test's own.
class Senders {
 public:
  using Time = TokenBucket::Time;

  explicit Senders(std::uint64_t rate) { bucket_.set_rate(rate); }

  // Lets so many channels send until then.
  void run(unsigned channels, Time until) {
    while (channels_.size() < channels) channels_.push_back({.at = now_});
    while (true) {
      const auto next = std::ranges::min_element(channels_, {}, &Channel::at);
      if (next->at >= until) break;
      // One that is not needed any more sends what it has asked for, as at the end of a round.
      if (next->piece == 0 && channels_.size() > channels) {
        channels_.erase(next);
      } else {
        step(*next);
      }
    }
    now_ = until;
  }
  // Nothing to send until then.
  void idle(Time until) {
    now_ = until;
    channels_.clear();
  }

  // The least and the most that goes out in any second that begins in this time, as a share of what
  // is meant to.
  struct Extremes {
    double least = 1e9;
    double most = 0;
  };
  [[nodiscard]] Extremes seconds_of(Time begin, Time end, double rate) const {
    Extremes found;
    std::size_t first = 0;
    std::size_t last = 0;
    double sum = 0;
    for (auto at = begin; at + 1s <= end; at += 5ms) {
      for (; last < sent_.size() && sent_[last].first < at + 1s; ++last) sum += sent_[last].second;
      for (; first < last && sent_[first].first < at; ++first) sum -= sent_[first].second;
      found.least = std::min(found.least, sum / rate);
      found.most = std::max(found.most, sum / rate);
    }
    return found;
  }

  static constexpr Time kBegin{1h};

 private:
  struct Channel {
    Time at;                  // when it does its next step
    std::uint64_t batch = 0;  // bytes left of it
    std::uint64_t piece = 0;  // that goes out then; 0: it asks for the next one
  };

  void step(Channel& channel) {
    if (channel.piece == 0) {
      if (channel.batch == 0) channel.batch = 1 + random_() % (2 * kMiB);
      channel.piece = bucket_.piece(channel.batch);
      channel.batch -= channel.piece;
      const auto wait = bucket_.take(channel.piece, channel.at);
      // Up to 3 ms late.
      if (wait > 0ns)
        channel.at += wait + std::chrono::microseconds(random_() % 3000);
      else
        channel.at += 1ns;
    } else {
      sent_.emplace_back(channel.at, static_cast<double>(channel.piece));
      // 2.5 GB/s.
      channel.at += std::chrono::nanoseconds(channel.piece * 2 / 5);
      channel.piece = 0;
    }
  }

  TokenBucket bucket_;
  Time now_ = kBegin;
  std::mt19937_64 random_{1};
  std::vector<Channel> channels_;
  std::vector<std::pair<Time, double>> sent_;
};

class PacedChannelsTest : public ::testing::TestWithParam<std::tuple<std::uint64_t, unsigned>> {};

TEST_P(PacedChannelsTest, AnySecondHasItsRateToFivePercent) {
  const auto [rate, channels] = GetParam();
  Senders senders(rate);
  senders.run(channels, Senders::kBegin + 6s);
  const auto [least, most] =
      senders.seconds_of(Senders::kBegin, Senders::kBegin + 6s, static_cast<double>(rate));
  EXPECT_GE(least, 0.95);
  EXPECT_LE(most, 1.05);
}

TEST_P(PacedChannelsTest, NothingIsSavedUpWhileNobodySends) {
  const auto [rate, channels] = GetParam();
  Senders senders(rate);
  const auto begin = Senders::kBegin;
  senders.run(channels, begin + 1s);
  for (int i = 1; i < 6; ++i) {
    senders.idle(begin + i * 1s + 500ms);
    senders.run(channels, begin + (i + 1) * 1s);
  }
  const auto [least, most] = senders.seconds_of(begin + 1s, begin + 6s, static_cast<double>(rate));
  // Half of each second is idle.
  EXPECT_GE(least, 0.45);
  EXPECT_LE(most, 0.55);
}

TEST_P(PacedChannelsTest, TheNumberOfChannelsMayChange) {
  const auto [rate, channels] = GetParam();
  Senders senders(rate);
  const auto begin = Senders::kBegin;
  for (int i = 0; i < 12; ++i)
    senders.run(i % 2 == 0 ? channels : 17 - channels, begin + i * 500ms);
  const auto [least, most] = senders.seconds_of(begin, begin + 5s, static_cast<double>(rate));
  EXPECT_GE(least, 0.95);
  EXPECT_LE(most, 1.05);
}

INSTANTIATE_TEST_SUITE_P(Rates, PacedChannelsTest,
                         ::testing::Combine(::testing::Values(kMiB, 10 * kMiB, 100 * kMiB,
                                                              1024 * kMiB),
                                            ::testing::Values(1U, 2U, 5U, 16U)));

TEST(RateLimiterTest, IsInterruptedWhileItWaits) {
  RateLimiter limiter(1);
  EXPECT_EQ(limiter.acquire(1'000'000), TokenBucket::kSmallestPiece);
  std::jthread interrupter([&] { limiter.interrupt(); });
  EXPECT_EQ(limiter.acquire(1), 0U);
  EXPECT_EQ(limiter.acquire(1), 0U);
}

TEST(RateLimiterTest, LetsEverythingThroughWithoutALimit) {
  RateLimiter limiter(1);
  limiter.set_rate(0);
  for (int i = 0; i < 1000; ++i) EXPECT_EQ(limiter.acquire(kMiB), kMiB);
}

}  // namespace
}  // namespace vmm::migration
