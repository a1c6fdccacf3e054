#pragma once

#include <cstdint>

namespace vmm {

// The time of day, as an interface so that tests can set it. Threads: any.
class Clock {
 public:
  virtual ~Clock() = default;

  // Whole seconds since 1970-01-01 00:00 UTC. May step either way when the host's clock is set.
  [[nodiscard]] virtual std::int64_t wall_seconds() const = 0;
};

// The host's CLOCK_REALTIME.
class SystemClock final : public Clock {
 public:
  [[nodiscard]] std::int64_t wall_seconds() const override;
};

}  // namespace vmm
