#include "migration/rate_limiter.h"

#include <algorithm>

namespace vmm::migration {

TokenBucket::Duration TokenBucket::take(std::uint64_t bytes, Time now) {
  if (rate_ == 0) {
    paid_until_ = now;
    return Duration::zero();
  }
  const Time begin = std::max(paid_until_, now - kSaved);
  const double seconds = static_cast<double>(bytes) / static_cast<double>(rate_);
  paid_until_ = begin + std::chrono::round<Duration>(std::chrono::duration<double>(seconds));
  return std::max(Duration::zero(), Duration(begin - now));
}

RateLimiter::RateLimiter(std::uint64_t bytes_per_second) {
  bucket_.set_rate(bytes_per_second);
}

void RateLimiter::set_rate(std::uint64_t bytes_per_second) {
  const MutexLock lock(mutex_);
  bucket_.set_rate(bytes_per_second);
}

bool RateLimiter::acquire(std::uint64_t bytes) {
  const MutexLock lock(mutex_);
  const auto now = std::chrono::steady_clock::now();
  const auto until = now + bucket_.take(bytes, now);
  while (!interrupted_ && std::chrono::steady_clock::now() < until) {
    wake_.wait_until(mutex_, until);
  }
  return !interrupted_;
}

void RateLimiter::interrupt() {
  const MutexLock lock(mutex_);
  interrupted_ = true;
  wake_.notify_all();
}

}  // namespace vmm::migration
