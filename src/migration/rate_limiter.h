#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>

#include "base/thread_annotations.h"

namespace vmm::migration {

// When bytes may go out so that there are no more than so many a second: a token bucket without a
// clock. Bytes are let through as soon as those before them are paid for, so a piece goes out at
// once and the next one waits; what is not used is saved up for kSaved only. Any second has no more
// than kSaved and kPiece of the rate above it.
class TokenBucket {
 public:
  using Time = std::chrono::steady_clock::time_point;
  using Duration = std::chrono::nanoseconds;
  // Makes up for senders that wake up late.
  static constexpr std::chrono::milliseconds kSaved{20};
  static constexpr std::chrono::milliseconds kPiece{10};
  // A page and its header, roughly: smaller pieces would cost more than they smooth.
  static constexpr std::uint64_t kSmallestPiece = 4096;

  // 0 bytes a second is no limit. What is owed is paid off at the new rate.
  void set_rate(std::uint64_t bytes_per_second) { rate_ = static_cast<double>(bytes_per_second); }
  // How many of `bytes` to send at once, so that they go out evenly: as many as kPiece carries.
  [[nodiscard]] std::uint64_t piece(std::uint64_t bytes) const;
  // How long to wait from `now` on before `bytes` may go out. Calls are in order of time.
  [[nodiscard]] Duration take(std::uint64_t bytes, Time now);

 private:
  double rate_ = 0;    // bytes a second
  double credit_ = 0;  // bytes that may go out at last_; what is owed is below zero
  Time last_{};
};

// A token bucket that several senders share, and that makes them wait.
class RateLimiter {
 public:
  explicit RateLimiter(std::uint64_t bytes_per_second = 0);

  // 0 is no limit. Those who wait already wait on for what they were told.
  void set_rate(std::uint64_t bytes_per_second) VMM_EXCLUDES(mutex_);
  // Returns when some of `bytes`, which is not 0, may go out: how many. 0, at once, after
  // interrupt().
  [[nodiscard]] std::uint64_t acquire(std::uint64_t bytes) VMM_EXCLUDES(mutex_);
  // Makes every acquire(), now and later, return 0.
  void interrupt() VMM_EXCLUDES(mutex_);

 private:
  Mutex mutex_;
  std::condition_variable_any wake_;
  TokenBucket bucket_ VMM_GUARDED_BY(mutex_);
  bool interrupted_ VMM_GUARDED_BY(mutex_) = false;
};

}  // namespace vmm::migration
