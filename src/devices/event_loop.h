#pragma once

#include <chrono>
#include <functional>
#include <memory>

#include "base/fd.h"

namespace vmm {

// Events of one descriptor; ends with its destruction, on the loop's thread.
class Watch {
 public:
  Watch() = default;
  Watch(const Watch&) = delete;
  Watch& operator=(const Watch&) = delete;
  virtual ~Watch() = default;

  // Turns events on or off. Threads: any; a handler that is about to run may still do so once after
  // off from another thread, so it looks at its own state first.
  virtual void set_enabled(bool enabled) = 0;
};

// Calls a function once at a time. Threads: as for Watch.
class LoopTimer {
 public:
  LoopTimer() = default;
  LoopTimer(const LoopTimer&) = delete;
  LoopTimer& operator=(const LoopTimer&) = delete;
  virtual ~LoopTimer() = default;

  // Replaces an expiry that was set before.
  virtual void expires_after(std::chrono::nanoseconds delay) = 0;
  virtual void cancel() = 0;
};

// The thread that does the work of device back ends, as an interface so that tests can be the loop.
// Handlers run on it one at a time, with no lock held, and do not block.
class EventLoop {
 public:
  EventLoop() = default;
  EventLoop(const EventLoop&) = delete;
  EventLoop& operator=(const EventLoop&) = delete;
  virtual ~EventLoop() = default;

  // Calls on_ready whenever fd has something to read (or takes something, for writable), as long
  // as that is so. fd must outlive the watch. Watches start enabled. Threads: the loop's, or before
  // it runs.
  [[nodiscard]] virtual std::unique_ptr<Watch> watch_readable(const Fd& fd,
                                                              std::function<void()> on_ready) = 0;
  [[nodiscard]] virtual std::unique_ptr<Watch> watch_writable(const Fd& fd,
                                                              std::function<void()> on_ready) = 0;
  [[nodiscard]] virtual std::unique_ptr<LoopTimer> make_timer(std::function<void()> on_expiry) = 0;
};

}  // namespace vmm
