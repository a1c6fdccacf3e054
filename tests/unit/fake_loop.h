#pragma once

#include <poll.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "devices/event_loop.h"
#include "devices/interrupt_line.h"

namespace vmm::virtio {

class FakeEdge final : public EdgeInterrupt {
 public:
  void trigger() override { ++count; }
  int count = 0;
};

// An event loop that the test turns. Time is what the test says.
class FakeLoop final : public EventLoop {
 public:
  std::unique_ptr<Watch> watch_readable(const Fd& fd, std::function<void()> on_ready) override {
    return std::make_unique<FakeWatch>(*this, fd.get(), POLLIN, std::move(on_ready));
  }
  std::unique_ptr<Watch> watch_writable(const Fd& fd, std::function<void()> on_ready) override {
    return std::make_unique<FakeWatch>(*this, fd.get(), POLLOUT, std::move(on_ready));
  }
  std::unique_ptr<LoopTimer> make_timer(std::function<void()> on_expiry) override {
    return std::make_unique<FakeTimer>(*this, std::move(on_expiry));
  }

  // Calls the handlers of what is ready, waiting up to `wait` for the first; false where none was.
  bool turn(std::chrono::milliseconds wait = {}) {
    std::vector<FakeWatch*> watching;
    std::vector<pollfd> fds;
    for (FakeWatch* watch : watches_) {
      if (!watch->enabled) continue;
      watching.push_back(watch);
      fds.push_back({watch->fd, watch->events, 0});
    }
    if (::poll(fds.data(), fds.size(), static_cast<int>(wait.count())) <= 0) return false;
    for (std::size_t i = 0; i < fds.size(); ++i) {
      const bool alive = std::ranges::find(watches_, watching[i]) != watches_.end();
      if (fds[i].revents != 0 && alive && watching[i]->enabled) watching[i]->on_ready();
    }
    return true;
  }
  // Turns until nothing is ready; false where that takes suspiciously long.
  bool settle(int turns = 10'000) {
    while (turns-- > 0) {
      if (!turn()) return true;
    }
    return false;
  }
  // Lets time pass; due timers expire in order.
  void advance(std::chrono::nanoseconds by) {
    const auto until = now + by;
    for (;;) {
      FakeTimer* next = nullptr;
      for (FakeTimer* timer : timers_) {
        if (timer->at && *timer->at <= until && (next == nullptr || *timer->at < *next->at)) {
          next = timer;
        }
      }
      if (next == nullptr) break;
      now = std::max(now, *next->at);
      next->at.reset();
      next->on_expiry();
    }
    now = until;
  }
  [[nodiscard]] bool has_timer_set() const {
    return std::ranges::any_of(timers_,
                               [](const FakeTimer* timer) { return timer->at.has_value(); });
  }

  std::chrono::nanoseconds now{0};

 private:
  struct FakeWatch final : Watch {
    FakeWatch(FakeLoop& loop_, int fd_, short events_, std::function<void()> on_ready_)
        : loop(loop_), fd(fd_), events(events_), on_ready(std::move(on_ready_)) {
      loop.watches_.push_back(this);
    }
    ~FakeWatch() override { std::erase(loop.watches_, this); }
    void set_enabled(bool on) override { enabled = on; }

    FakeLoop& loop;
    int fd;
    short events;
    std::function<void()> on_ready;
    bool enabled = true;
  };
  struct FakeTimer final : LoopTimer {
    FakeTimer(FakeLoop& loop_, std::function<void()> on_expiry_)
        : loop(loop_), on_expiry(std::move(on_expiry_)) {
      loop.timers_.push_back(this);
    }
    ~FakeTimer() override { std::erase(loop.timers_, this); }
    void expires_after(std::chrono::nanoseconds delay) override { at = loop.now + delay; }
    void cancel() override { at.reset(); }

    FakeLoop& loop;
    std::function<void()> on_expiry;
    std::optional<std::chrono::nanoseconds> at;
  };

  std::vector<FakeWatch*> watches_;
  std::vector<FakeTimer*> timers_;
};

}  // namespace vmm::virtio
