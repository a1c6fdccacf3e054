#pragma once

namespace vmm {

// A level-sensitive interrupt input of the guest's interrupt controller.
class InterruptLine {
 public:
  virtual ~InterruptLine() = default;

  // Drives the line high or low; repeating a level is harmless. Called from any thread, with the
  // lock of the device held so that levels arrive in order: it must not call the device back.
  virtual void set_level(bool level) = 0;
};

// An edge-triggered interrupt input of the guest's interrupt controller.
class EdgeInterrupt {
 public:
  virtual ~EdgeInterrupt() = default;

  // Makes the interrupt pending. Called from any thread, with the lock of the device held: it must
  // not call the device back.
  virtual void trigger() = 0;
};

}  // namespace vmm
