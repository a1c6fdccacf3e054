#include "vmm/asio_loop.h"

#include <boost/asio/dispatch.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>

#include <atomic>
#include <optional>

namespace vmm {
namespace {

namespace asio = boost::asio;
using WaitType = asio::posix::stream_descriptor::wait_type;

}  // namespace

// A descriptor that one or more watches wait for; the reactor takes each only once. It is given
// back to its owner when the last of them goes, whatever waits are still under way.
class AsioLoop::Descriptor {
 public:
  Descriptor(asio::io_context& loop, int fd) : stream(loop, fd) {}
  ~Descriptor() { release(); }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;

  void release() {
    if (stream.is_open()) static_cast<void>(stream.release());
  }

  asio::posix::stream_descriptor stream;
  unsigned watches = 0;
};

namespace {

class AsioWatch final : public Watch {
 public:
  AsioWatch(asio::io_context& loop, std::shared_ptr<AsioLoop::Descriptor> descriptor, WaitType type,
            std::function<void()> on_ready)
      : state_(std::make_shared<State>(loop, std::move(descriptor), type, std::move(on_ready))) {
    ++state_->descriptor->watches;
    State::wait(state_);
  }
  ~AsioWatch() override {
    state_->gone = true;
    if (--state_->descriptor->watches == 0) state_->descriptor->release();
  }

  void set_enabled(bool enabled) override {
    if (state_->enabled.exchange(enabled) == enabled || !enabled) return;
    asio::dispatch(state_->loop, [state = state_] { State::wait(state); });
  }

 private:
  // Shared with the wait under way, which may end after the watch.
  struct State {
    State(asio::io_context& loop_, std::shared_ptr<AsioLoop::Descriptor> descriptor_,
          WaitType type_, std::function<void()> on_ready_)
        : loop(loop_),
          descriptor(std::move(descriptor_)),
          type(type_),
          on_ready(std::move(on_ready_)) {}

    static void wait(const std::shared_ptr<State>& state) {
      if (state->waiting || !state->enabled || state->gone) return;
      state->waiting = true;
      state->descriptor->stream.async_wait(state->type,
                                           [state](const boost::system::error_code& error) {
                                             state->waiting = false;
                                             // Turned off meanwhile: whoever turns it on waits
                                             // again.
                                             if (error || state->gone || !state->enabled) return;
                                             state->on_ready();
                                             wait(state);
                                           });
    }

    asio::io_context& loop;
    const std::shared_ptr<AsioLoop::Descriptor> descriptor;
    const WaitType type;
    const std::function<void()> on_ready;
    std::atomic<bool> enabled{true};
    // On the loop only.
    bool waiting = false;
    bool gone = false;
  };

  std::shared_ptr<State> state_;
};

class AsioTimer final : public LoopTimer {
 public:
  AsioTimer(asio::io_context& loop, std::function<void()> on_expiry)
      : state_(std::make_shared<State>(loop, std::move(on_expiry))) {}
  ~AsioTimer() override {
    state_->timer.cancel();
    state_->generation = 0;
  }

  void expires_after(std::chrono::nanoseconds delay) override {
    set(std::chrono::steady_clock::now() + delay);
  }
  void cancel() override { set({}); }

 private:
  struct State {
    State(asio::io_context& loop_, std::function<void()> on_expiry_)
        : loop(loop_), timer(loop_), on_expiry(std::move(on_expiry_)) {}
    asio::io_context& loop;
    asio::steady_timer timer;
    const std::function<void()> on_expiry;
    std::atomic<std::uint64_t> generation{1};
  };

  void set(std::optional<std::chrono::steady_clock::time_point> at) {
    // Any thread may set it; the timer belongs to the loop.
    const std::uint64_t generation = ++state_->generation;
    asio::dispatch(state_->loop, [state = state_, at, generation] {
      if (state->generation != generation) return;
      state->timer.cancel();
      if (!at) return;
      state->timer.expires_at(*at);
      state->timer.async_wait([state, generation](const boost::system::error_code& error) {
        if (!error && state->generation == generation) state->on_expiry();
      });
    });
  }

  std::shared_ptr<State> state_;
};

}  // namespace

std::shared_ptr<AsioLoop::Descriptor> AsioLoop::descriptor(const Fd& fd) {
  std::erase_if(descriptors_, [](const auto& entry) { return entry.second.expired(); });
  auto& known = descriptors_[fd.get()];
  auto shared = known.lock();
  // One that has been given back may still be held by a wait that has not ended yet.
  if (!shared || !shared->stream.is_open()) {
    shared = std::make_shared<Descriptor>(loop_, fd.get());
    known = shared;
  }
  return shared;
}

std::unique_ptr<Watch> AsioLoop::watch_readable(const Fd& fd, std::function<void()> on_ready) {
  return std::make_unique<AsioWatch>(loop_, descriptor(fd), WaitType::wait_read,
                                     std::move(on_ready));
}

std::unique_ptr<Watch> AsioLoop::watch_writable(const Fd& fd, std::function<void()> on_ready) {
  return std::make_unique<AsioWatch>(loop_, descriptor(fd), WaitType::wait_write,
                                     std::move(on_ready));
}

std::unique_ptr<LoopTimer> AsioLoop::make_timer(std::function<void()> on_expiry) {
  return std::make_unique<AsioTimer>(loop_, std::move(on_expiry));
}

}  // namespace vmm
