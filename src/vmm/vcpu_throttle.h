#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <thread>

#include "base/thread_annotations.h"

namespace vmm {

// When vCPUs are held back so that they are so for a given share of time, however late whoever
// follows it wakes up: what was too long or too short is made up for by the next phases. No clock.
class ThrottleSchedule {
 public:
  using Time = std::chrono::steady_clock::time_point;
  using Duration = std::chrono::nanoseconds;
  // Short enough for what people and networks wait for.
  static constexpr std::chrono::milliseconds kPeriod{20};
  // No phase is longer, also where a lot has to be made up for: the rest is forgotten.
  static constexpr std::chrono::milliseconds kLongest{200};

  // percent: 1 to 99.
  ThrottleSchedule(unsigned percent, Time now) : share_(percent / 100.0), since_(now) {}

  struct Phase {
    bool held;
    Duration length;
  };
  // The phase that begins now: the one before is over. The first one is held.
  [[nodiscard]] Phase next(Time now);

 private:
  using Seconds = std::chrono::duration<double>;

  double share_;
  Time since_;  // when the phase under way began
  bool held_ = false;
  Seconds owed_{0};  // time that vCPUs ought to have been held and were not; too much is below zero
};

// Holds vCPUs back for a share of the time, from a thread of its own while there is something to
// do. All methods are for one thread.
class VcpuThrottle {
 public:
  // hold(true) takes the vCPUs out of the guest, hold(false) lets them go on. It is called on the
  // thread, one call at a time, must not block, and is not called once set(0) has returned.
  explicit VcpuThrottle(std::function<void(bool)> hold) : hold_(std::move(hold)) {}
  VcpuThrottle(const VcpuThrottle&) = delete;
  VcpuThrottle& operator=(const VcpuThrottle&) = delete;
  ~VcpuThrottle() { set(0); }

  // percent: 0 to 99. When it returns with 0, the vCPUs are not held back.
  void set(unsigned percent);

 private:
  void run(unsigned percent) VMM_EXCLUDES(mutex_);

  const std::function<void(bool)> hold_;
  std::thread thread_;
  Mutex mutex_;
  std::condition_variable_any changed_;
  bool quit_ VMM_GUARDED_BY(mutex_) = false;
};

}  // namespace vmm
