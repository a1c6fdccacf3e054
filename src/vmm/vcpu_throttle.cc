#include "vmm/vcpu_throttle.h"

#include <pthread.h>

#include <algorithm>
#include <utility>

namespace vmm {

ThrottleSchedule::Phase ThrottleSchedule::next(Time now) {
  const Seconds past = now - since_;
  since_ = now;
  owed_ += share_ * past - (held_ ? past : Seconds{0});
  held_ = !held_;
  // While held, 1 - share_ of the time is paid off; then, what is left of the period is to end with
  // nothing owed.
  const Seconds length = held_ ? share_ * Seconds(kPeriod) + owed_ / (1 - share_) : -owed_ / share_;
  const Seconds bounded = std::clamp(length, Seconds{0}, Seconds(kLongest));
  owed_ += (held_ ? -(1 - share_) : share_) * (length - bounded);
  return {held_, std::chrono::duration_cast<Duration>(bounded)};
}

void VcpuThrottle::set(unsigned percent) {
  if (thread_.joinable()) {
    {
      const MutexLock lock(mutex_);
      quit_ = true;
      changed_.notify_all();
    }
    thread_.join();
  }
  if (percent == 0) return;
  {
    const MutexLock lock(mutex_);
    quit_ = false;
  }
  thread_ = std::thread([this, percent] { run(percent); });
}

void VcpuThrottle::run(unsigned percent) {
  ::pthread_setname_np(::pthread_self(), "throttle");
  ThrottleSchedule schedule(percent, std::chrono::steady_clock::now());
  for (;;) {
    const auto now = std::chrono::steady_clock::now();
    const auto [held, length] = schedule.next(now);
    hold_(held);
    const MutexLock lock(mutex_);
    while (!quit_ && std::chrono::steady_clock::now() < now + length) {
      changed_.wait_until(mutex_, now + length);
    }
    if (quit_) break;
  }
  hold_(false);
}

}  // namespace vmm
