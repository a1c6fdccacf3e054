#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>

#include "base/thread_annotations.h"

namespace vmm::migration {

// When bytes may go out so that there are no more than so many a second: a token bucket without a
// clock. Bytes are let through as soon as those before them are paid for, so a large piece goes out
// at once and the next one waits; what is not used is saved up for kSaved only.
class TokenBucket {
 public:
  using Time = std::chrono::steady_clock::time_point;
  using Duration = std::chrono::nanoseconds;
  static constexpr std::chrono::milliseconds kSaved{10};

  // 0 bytes a second is no limit. What is owed is paid off at the new rate.
  void set_rate(std::uint64_t bytes_per_second) { rate_ = static_cast<double>(bytes_per_second); }
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
  // Returns when `bytes` may go out, or at once with false after interrupt().
  [[nodiscard]] bool acquire(std::uint64_t bytes) VMM_EXCLUDES(mutex_);
  // Makes every acquire(), now and later, return false.
  void interrupt() VMM_EXCLUDES(mutex_);

 private:
  Mutex mutex_;
  std::condition_variable_any wake_;
  TokenBucket bucket_ VMM_GUARDED_BY(mutex_);
  bool interrupted_ VMM_GUARDED_BY(mutex_) = false;
};

}  // namespace vmm::migration
