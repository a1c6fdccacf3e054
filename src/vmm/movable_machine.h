#pragma once

#include <chrono>
#include <cstddef>
#include <span>
#include <vector>

#include "base/result.h"
#include "memory/dirty_log.h"
#include "memory/guest_memory.h"

namespace vmm {

// What a migration needs of a machine, beyond running and pausing it. For the event loop, but for
// memory() and dirty_log(), which outlive every use by one other thread at a time.
class MovableMachine {
 public:
  MovableMachine() = default;
  MovableMachine(const MovableMachine&) = delete;
  MovableMachine& operator=(const MovableMachine&) = delete;
  virtual ~MovableMachine() = default;

  [[nodiscard]] virtual GuestMemory& memory() = 0;
  [[nodiscard]] virtual DirtyLog& dirty_log() = 0;

  // Keeps vCPUs out of the guest for so many percent of the time, 0 to 99, also over pauses.
  virtual void throttle(unsigned percent) = 0;

  // What the guest sees of the CPUs and the interrupt controller, encoded: ID registers, counter
  // frequency, vector lengths.
  [[nodiscard]] virtual const std::vector<std::byte>& identity() const = 0;

  // Everything but memory: counters, vCPUs, interrupt controller, devices. The counters go on while
  // the machine is paused, so that they are read first, at once. The machine is paused.
  [[nodiscard]] virtual Result<std::vector<std::byte>> save() = 0;
  // Takes over a saved state; may be repeated with another one. The bytes come from a peer and are
  // checked; after an error the machine must not run. The machine is paused.
  [[nodiscard]] virtual Result<> restore(std::span<const std::byte> state) = 0;
  // Sets the guest's counters to what they were when the state was saved, and so much later.
  [[nodiscard]] virtual Result<> advance_counter(std::chrono::nanoseconds elapsed) = 0;
  // Tells the networks where the guest is now.
  virtual void announce() = 0;
};

}  // namespace vmm
