#include "devices/clock.h"

#include <chrono>

namespace vmm {

std::int64_t SystemClock::wall_seconds() const {
  const auto since_epoch = std::chrono::system_clock::now().time_since_epoch();
  return std::chrono::floor<std::chrono::seconds>(since_epoch).count();
}

}  // namespace vmm
