#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/result.h"
#include "memory/dirty_log.h"
#include "memory/guest_memory.h"
#include "migration/manifest.h"

namespace vmm::migration {

// Everything of a guest but its memory.
struct SavedMachine {
  std::vector<std::byte> state;
  std::chrono::steady_clock::time_point counters_at;  // when the guest's counters were read
};

// The guest that a source gives away. Called on the migration's thread, one call at a time.
class SourceGuest {
 public:
  virtual ~SourceGuest() = default;

  [[nodiscard]] virtual GuestMemory& memory() = 0;
  [[nodiscard]] virtual DirtyLog& dirty_log() = 0;

  // On return no vCPU runs and no device touches memory. Error where the guest has ended or
  // reboots.
  [[nodiscard]] virtual Result<> pause() = 0;
  // Lets the guest do again what it did before pause().
  [[nodiscard]] virtual Result<> resume() = 0;
  // Keeps vCPUs out of the guest for so many percent of the time, at most kMostThrottle; 0 ends
  // that. Holds over pause() and resume().
  virtual void throttle(unsigned percent) = 0;
  // Everything but memory; while paused.
  [[nodiscard]] virtual Result<SavedMachine> save() = 0;
  // Makes the disks durable and gives them up, or none of them; while paused. And takes them back.
  [[nodiscard]] virtual Result<> release_disks() = 0;
  [[nodiscard]] virtual Result<> reacquire_disks() = 0;
  // Nobody here knows whether the destination runs the guest.
  virtual void mark_in_doubt() = 0;
};

// The machine that a guest arrives in. Called on the migration's thread, one call at a time.
class DestinationGuest {
 public:
  virtual ~DestinationGuest() = default;

  [[nodiscard]] virtual GuestMemory& memory() = 0;
  // Takes over a saved state, of a rehearsal or for good. The bytes are the peer's.
  [[nodiscard]] virtual Result<> restore(std::span<const std::byte> state) = 0;
  // Opens and locks all disks, or none.
  [[nodiscard]] virtual Result<> acquire_disks() = 0;
  [[nodiscard]] virtual Result<> release_disks() = 0;
  // Runs the guest, whose counters were read at `saved_at` of this host's clock and go on from
  // then; then tells the network. After the decision nothing can be taken back: an error means that
  // the guest has ended here.
  [[nodiscard]] virtual Result<> start(std::chrono::steady_clock::time_point saved_at) = 0;
};

}  // namespace vmm::migration
