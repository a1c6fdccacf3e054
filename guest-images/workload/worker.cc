#include "workload/worker.h"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <chrono>
#include <ctime>
#include <limits>

#include "workload/pacer.h"
#include "workload/report.h"

namespace vmm::workload {
namespace {

// Pages between two looks at the flags: short enough that a stop or a verification is prompt at
// any speed, long enough that looking costs nothing.
constexpr std::uint64_t kBatchPages = 1024;
constexpr auto kPause = std::chrono::milliseconds(1);

}  // namespace

std::int64_t monotonic_ns() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1'000'000'000 + now.tv_nsec;
}

Worker::Worker(PageSlice slice, double pages_per_s, std::uint64_t passes, int cpu)
    : slice_(slice),
      pages_(slice.pages()),
      pages_per_s_(pages_per_s),
      passes_limit_(passes),
      cpu_(cpu) {}

Worker::~Worker() {
  request_stop();
  join();
}

void Worker::start(std::latch& ready) {
  thread_ = std::thread([this, &ready] { run(ready); });
}

void Worker::join() {
  if (thread_.joinable()) thread_.join();
}

std::optional<Mismatch> Worker::first_mismatch() const {
  const std::lock_guard lock(mutex_);
  return first_mismatch_;
}

void Worker::run(std::latch& ready) {
  if (cpu_ >= 0) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(static_cast<std::size_t>(cpu_), &set);
    // The CPU came from this process's own mask; one taken away since then is not an error.
    pthread_setaffinity_np(pthread_self(), sizeof(set), &set);
  }
  slice_.prefill();
  ready.arrive_and_wait();
  write_until_told();
  verify();
  finished_.store(true);
}

void Worker::write_until_told() {
  const std::uint64_t limit =
      passes_limit_ == 0 ? std::numeric_limits<std::uint64_t>::max() : passes_limit_ * pages_;
  ClockWatch clock;
  std::int64_t now = monotonic_ns();
  Pacer pacer(std::max(pages_per_s_, 1e-9), now);
  std::uint64_t verifications_done = 0;
  while (!stop_.load(std::memory_order_relaxed) && slice_.writes() < limit) {
    for (; verifications_done < verify_requests_.load(std::memory_order_relaxed);
         ++verifications_done) {
      verify();
    }
    now = monotonic_ns();
    clock.observe(now);
    clock_back_.store(clock.backward_steps(), std::memory_order_relaxed);
    std::uint64_t count = pages_per_s_ > 0 ? pacer.due(now) : kBatchPages;
    count = std::min(count, limit - slice_.writes());
    if (count > 0) slice_.write(count);
    written_.store(slice_.writes(), std::memory_order_relaxed);
    if (pages_per_s_ > 0) std::this_thread::sleep_for(kPause);
  }
}

void Worker::verify() {
  if (const auto mismatch = slice_.verify()) {
    const std::lock_guard lock(mutex_);
    if (!first_mismatch_) first_mismatch_ = mismatch;
    mismatches_.fetch_add(1);
  }
  verified_.fetch_add(1);
}

}  // namespace vmm::workload
