#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "base/result.h"

namespace vmm {

struct DirtyRateRequest {
  std::string name;  // empty: the only guest that runs
  std::uint64_t period_ms = 1000;
  std::optional<std::uint64_t> interval_ms;  // 100, or the period where that is shorter
  std::uint64_t count = 1;                   // measurements, one after the other; 0 is without end
  std::string dirty_log = "auto";            // or "hw", "wp"
  bool json = false;
};

// Measures how fast a guest writes to its memory, and prints it. During a migration it prints what
// that has found instead. An interrupt (Ctrl-C) ends it, and the logging with it.
[[nodiscard]] Result<> measure_dirty_rate(const DirtyRateRequest& request);

}  // namespace vmm
