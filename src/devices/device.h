#pragma once

#include <string_view>

#include "base/bytes.h"
#include "base/result.h"

namespace vmm {

// What every device of a guest can do. A device keeps what the guest can observe in one State
// value, so that saving is a copy and restoring is an assignment; save and restore have no default,
// so that a device that cannot move has to say so.
class Device {
 public:
  virtual ~Device() = default;

  // Stable name within the machine ("pl011"), for messages and for the state of a migration.
  [[nodiscard]] virtual std::string_view name() const = 0;

  // Back to the state after power-on, and the interrupt line low. What lies outside of the machine
  // (the time of day, keys held down) stays. Threads: no vCPU runs.
  virtual void reset() = 0;

  // Appends the state: a version (u32), then fields. Threads: any, but only with the vCPUs paused
  // and the event loop out of the device is the state of one moment the guest's whole state.
  virtual void save(ByteWriter& writer) const = 0;

  // Takes over a saved state and drives the interrupt line accordingly. The bytes come from a peer
  // and are not trusted: every field is checked first, and an error leaves the device as it was.
  // Reads exactly what save() wrote; the caller checks that nothing is left. Threads: no vCPU runs.
  [[nodiscard]] virtual Result<> restore(ByteReader& reader) = 0;
};

}  // namespace vmm
