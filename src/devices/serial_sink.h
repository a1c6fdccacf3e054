#pragma once

#include <cstddef>
#include <span>

namespace vmm {

// Where the bytes go that a guest sends through a console device.
class SerialSink {
 public:
  virtual ~SerialSink() = default;

  // Takes all bytes and never blocks: it buffers or drops. Called from any thread with the lock of
  // the device held, so that bytes arrive in order: it must not call the device back.
  virtual void write(std::span<const std::byte> bytes) = 0;
};

}  // namespace vmm
