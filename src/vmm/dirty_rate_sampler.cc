#include <algorithm>
#include <bit>

#include "vmm/dirty_rate.h"

namespace vmm {
namespace {

using SteadyClock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds kLongestPeriod = std::chrono::hours(1);
// A client that has not asked for so long is gone, and its measurement with it.
constexpr std::chrono::seconds kLease{3};

std::uint64_t count_bits(std::span<const std::uint64_t> words) {
  std::uint64_t count = 0;
  for (const auto word : words) count += static_cast<std::uint64_t>(std::popcount(word));
  return count;
}

}  // namespace

Result<> check(const DirtyRateOptions& options) {
  if (options.period.count() <= 0 || options.period > kLongestPeriod) {
    return fail(ErrorKind::kUsage, "a period of {} ms: give 1 ms to one hour",
                options.period.count());
  }
  if (options.interval.count() <= 0 || options.interval > options.period) {
    return fail(ErrorKind::kUsage, "an interval of {} ms: give 1 ms to the period, which is {} ms",
                options.interval.count(), options.period.count());
  }
  return success();
}

DirtyRateSampler::DirtyRateSampler(DirtyLog& log, GuestMemory& memory,
                                   const DirtyRateOptions& options, std::function<void()> on_end)
    : tracker_(log, memory),
      log_(log),
      options_(options),
      on_end_(std::move(on_end)),
      wanted_until_(SteadyClock::now() + kLease) {
  thread_ = std::thread([this] {
    auto result = measure();
    // Whatever happened, the guest is left without logging.
    auto stopped = tracker_.stop();
    {
      const std::lock_guard lock(mutex_);
      if (!result) {
        error_ = std::move(result).error();
      } else if (!stopped) {
        error_ = std::move(stopped).error();
      }
    }
    on_end_();
  });
}

DirtyRateSampler::~DirtyRateSampler() {
  static_cast<void>(finish());
}

Result<DirtyRate> DirtyRateSampler::finish() {
  stop();
  if (thread_.joinable()) thread_.join();
  return result();
}

Result<DirtyRate> DirtyRateSampler::result() const {
  const std::lock_guard lock(mutex_);
  if (error_) return fail(*error_);
  return rate_;
}

void DirtyRateSampler::stop() {
  const std::lock_guard lock(mutex_);
  stop_ = true;
  changed_.notify_all();
}

void DirtyRateSampler::keep_alive() {
  const std::lock_guard lock(mutex_);
  wanted_until_ = SteadyClock::now() + kLease;
}

bool DirtyRateSampler::wait_until(SteadyClock::time_point time) {
  std::unique_lock lock(mutex_);
  while (!stop_ && SteadyClock::now() < time) {
    if (SteadyClock::now() >= wanted_until_) return false;
    changed_.wait_until(lock, std::min(time, wanted_until_));
  }
  return !stop_;
}

Result<> DirtyRateSampler::measure() {
  const bool hardware = log_.offers(DirtyLogMode::kHardware);
  const auto mode =
      options_.mode.value_or(hardware ? DirtyLogMode::kHardware : DirtyLogMode::kWriteProtect);
  TRY(tracker_.start(mode));
  std::vector<std::uint64_t> seen(dirty_words(tracker_.pages()));
  // Everything counts as written at the start: it is watched from here on.
  TRY(tracker_.clear_pending(seen));
  std::ranges::fill(seen, 0);
  const auto begun = SteadyClock::now();
  {
    const std::lock_guard lock(mutex_);
    rate_.mode = mode;
    rate_.begun = std::chrono::system_clock::now();
  }
  const auto end = begun + options_.period;
  auto next = begun + options_.interval;
  auto last_look = begun;
  while (last_look < end && wait_until(std::min(next, end))) {
    TRY(const auto pages, tracker_.harvest());
    const auto now = SteadyClock::now();
    TRY(tracker_.clear_pending(seen));
    const std::lock_guard lock(mutex_);
    rate_.intervals.push_back(pages);
    rate_.measured = now - begun;
    rate_.unique_pages = count_bits(seen);
    last_look = now;
    // A look that came late does not make the next interval shorter.
    next += options_.interval;
    if (next <= now) next = now + options_.interval;
  }
  return success();
}

}  // namespace vmm
