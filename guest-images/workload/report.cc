#include "workload/report.h"

#include <fmt/core.h>

#include <algorithm>

namespace vmm::workload {

std::int64_t ClockWatch::observe(std::int64_t now_ns) {
  std::int64_t gap = 0;
  if (started_ && now_ns < last_ns_) {
    ++backward_steps_;
  } else if (started_) {
    gap = now_ns - last_ns_;
  }
  longest_gap_ns_ = std::max(longest_gap_ns_, gap);
  last_ns_ = now_ns;
  started_ = true;
  return gap;
}

std::string format_line(const Line& line) {
  std::string text = fmt::format(
      "workload: t_ms={} pages={} passes={} unique={} pages_per_s={:.0f} gap_us={} "
      "longest_gap_us={} tick_us={} longest_tick_us={} verified={} mismatches={} clock_back={}",
      line.elapsed_ns / 1'000'000, line.pages, line.passes, line.unique, line.pages_per_s,
      line.gap_ns / 1000, line.longest_gap_ns / 1000, line.tick_ns / 1000,
      line.longest_tick_ns / 1000, line.verified, line.mismatches, line.backward_steps);
  if (line.wall_ns >= 0) {
    text += fmt::format(" wall={}.{:03}", line.wall_ns / 1'000'000'000,
                        line.wall_ns / 1'000'000 % 1000);
  }
  return text;
}

}  // namespace vmm::workload
