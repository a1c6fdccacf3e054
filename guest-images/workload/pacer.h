#pragma once

#include <cstdint>

namespace vmm::workload {

// How many pages are due at a chosen rate: a pure function of the clock readings it is given.
// What was missed while the thread did not run for longer than kMaxBacklogNs is dropped, so that a
// stall is not followed by a burst above the rate. Not thread-safe.
class Pacer {
 public:
  static constexpr std::int64_t kMaxBacklogNs = 10'000'000;

  // `pages_per_s` > 0; `now_ns`: a reading of the clock that later calls use.
  Pacer(double pages_per_s, std::int64_t now_ns);

  // Whole pages that have become due since the last call; the fraction is carried over.
  [[nodiscard]] std::uint64_t due(std::int64_t now_ns);

 private:
  double pages_per_ns_;
  double credit_ = 0;
  std::int64_t last_ns_;
};

}  // namespace vmm::workload
