#include "workload/pacer.h"

#include <algorithm>

namespace vmm::workload {

Pacer::Pacer(double pages_per_s, std::int64_t now_ns)
    : pages_per_ns_(pages_per_s / 1e9), last_ns_(now_ns) {}

std::uint64_t Pacer::due(std::int64_t now_ns) {
  const std::int64_t elapsed = std::clamp<std::int64_t>(now_ns - last_ns_, 0, kMaxBacklogNs);
  last_ns_ = now_ns;
  credit_ += static_cast<double>(elapsed) * pages_per_ns_;
  const auto whole = static_cast<std::uint64_t>(credit_);
  credit_ -= static_cast<double>(whole);
  return whole;
}

}  // namespace vmm::workload
