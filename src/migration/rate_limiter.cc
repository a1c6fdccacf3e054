#include "migration/rate_limiter.h"

#include <algorithm>

namespace vmm::migration {

std::uint64_t TokenBucket::piece(std::uint64_t bytes) const {
  if (rate_ == 0) return bytes;
  const double carried = rate_ * std::chrono::duration<double>(kPiece).count();
  if (carried >= static_cast<double>(bytes)) return bytes;
  return std::min(bytes, std::max(static_cast<std::uint64_t>(carried), kSmallestPiece));
}

TokenBucket::Duration TokenBucket::take(std::uint64_t bytes, Time now) {
  using Seconds = std::chrono::duration<double>;
  const double earned = rate_ * Seconds(now - last_).count();
  last_ = now;
  if (rate_ == 0) {
    credit_ = 0;
    return Duration::zero();
  }
  credit_ = std::min(credit_ + earned, rate_ * Seconds(kSaved).count());
  const Seconds wait(std::max(0.0, -credit_ / rate_));
  credit_ -= static_cast<double>(bytes);
  return std::chrono::ceil<Duration>(wait);
}

RateLimiter::RateLimiter(std::uint64_t bytes_per_second) {
  bucket_.set_rate(bytes_per_second);
}

void RateLimiter::set_rate(std::uint64_t bytes_per_second) {
  const MutexLock lock(mutex_);
  bucket_.set_rate(bytes_per_second);
}

std::uint64_t RateLimiter::acquire(std::uint64_t bytes) {
  const MutexLock lock(mutex_);
  bytes = bucket_.piece(bytes);
  const auto now = std::chrono::steady_clock::now();
  const auto until = now + bucket_.take(bytes, now);
  while (!interrupted_ && std::chrono::steady_clock::now() < until) {
    wake_.wait_until(mutex_, until);
  }
  return interrupted_ ? 0 : bytes;
}

void RateLimiter::interrupt() {
  const MutexLock lock(mutex_);
  interrupted_ = true;
  wake_.notify_all();
}

}  // namespace vmm::migration
