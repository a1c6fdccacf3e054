#pragma once

#include <cstdint>
#include <string>

namespace vmm::workload {

// Follows readings of a monotonic clock: the longest gap between two of them and how often one was
// earlier than the one before. Not thread-safe.
class ClockWatch {
 public:
  // Takes a reading; returns the gap to the one before, 0 for the first and for a backward step.
  std::int64_t observe(std::int64_t now_ns);

  [[nodiscard]] std::int64_t longest_gap_ns() const { return longest_gap_ns_; }
  [[nodiscard]] std::uint64_t backward_steps() const { return backward_steps_; }

 private:
  bool started_ = false;
  std::int64_t last_ns_ = 0;
  std::int64_t longest_gap_ns_ = 0;
  std::uint64_t backward_steps_ = 0;
};

// The figures of one printed line; times in ns.
struct Line {
  std::int64_t elapsed_ns = 0;       // since the writers started
  std::uint64_t pages = 0;           // pages written since the start, over all threads
  std::uint64_t passes = 0;          // passes that every thread has completed
  std::uint64_t unique = 0;          // different pages written since the line before
  double pages_per_s = 0;            // since the line before
  std::int64_t gap_ns = 0;           // since the line before
  std::int64_t longest_gap_ns = 0;   // longest gap between two lines so far
  std::int64_t tick_ns = 0;          // longest gap between two ticks since the line before
  std::int64_t longest_tick_ns = 0;  // longest gap between two ticks so far
  std::uint64_t verified = 0;        // complete verifications of the memory so far
  std::uint64_t mismatches = 0;      // verifications that found a wrong page
  std::uint64_t backward_steps = 0;  // times that the monotonic clock went back
  std::int64_t wall_ns = -1;         // wall clock, or -1 to leave it out
};

// The line as text: "workload: t_ms=… pages=… …", without a line end.
[[nodiscard]] std::string format_line(const Line& line);

}  // namespace vmm::workload
