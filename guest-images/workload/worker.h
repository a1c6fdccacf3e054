#pragma once

#include <atomic>
#include <cstdint>
#include <latch>
#include <mutex>
#include <optional>
#include <thread>

#include "workload/options.h"
#include "workload/pages.h"

namespace vmm::workload {

// CLOCK_MONOTONIC in ns.
[[nodiscard]] std::int64_t monotonic_ns();

// One writer thread and its slice of the working set. The public functions may be called from any
// thread; the slice itself is touched by the writer alone, so a verification is asked for and done
// by the writer between two batches of writes.
class Worker {
 public:
  // pages_per_s: this writer's share of the rate, 0 for as fast as it can. passes: 0 for no limit.
  // cpu: CPU to run on, or -1.
  Worker(PageSlice slice, double pages_per_s, std::uint64_t passes, int cpu);
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;
  // Stops and joins the writer.
  ~Worker();

  // Starts the thread, which fills its pages and then waits for all others at `ready`, which must
  // outlive it.
  void start(std::latch& ready);
  // Asks the writer to stop; it verifies its memory once more before it ends.
  void request_stop() { stop_.store(true, std::memory_order_relaxed); }
  void request_verify() { verify_requests_.fetch_add(1, std::memory_order_relaxed); }
  void join();

  [[nodiscard]] std::uint64_t pages() const { return pages_; }
  [[nodiscard]] std::uint64_t pages_written() const { return written_.load(); }
  [[nodiscard]] std::uint64_t passes() const { return written_.load() / pages_; }
  // Number of verifications done; each request is one, and so is the last.
  [[nodiscard]] std::uint64_t verified() const { return verified_.load(); }
  [[nodiscard]] std::uint64_t mismatches() const { return mismatches_.load(); }
  [[nodiscard]] std::uint64_t clock_backward_steps() const { return clock_back_.load(); }
  [[nodiscard]] bool finished() const { return finished_.load(); }
  // The first wrong page found, if there is one.
  [[nodiscard]] std::optional<Mismatch> first_mismatch() const;

 private:
  void run(std::latch& ready);
  void write_until_told();
  void verify();

  PageSlice slice_;
  const std::uint64_t pages_;
  const double pages_per_s_;
  const std::uint64_t passes_limit_;
  const int cpu_;

  std::atomic<bool> stop_ = false;
  std::atomic<bool> finished_ = false;
  std::atomic<std::uint64_t> verify_requests_ = 0;
  std::atomic<std::uint64_t> verified_ = 0;
  std::atomic<std::uint64_t> mismatches_ = 0;
  std::atomic<std::uint64_t> written_ = 0;
  std::atomic<std::uint64_t> clock_back_ = 0;
  mutable std::mutex mutex_;
  std::optional<Mismatch> first_mismatch_;  // under mutex_
  std::thread thread_;
};

}  // namespace vmm::workload
