#pragma once

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "base/result.h"
#include "base/thread_annotations.h"
#include "migration/channel.h"
#include "migration/limits.h"
#include "migration/messages.h"

namespace vmm::migration {

struct Frame {
  std::uint32_t type = 0;
  std::vector<std::byte> payload;
  std::chrono::steady_clock::time_point arrived;
};

// Messages to and from the peer in frames (messages.h), with heartbeats both ways, which are not
// handed out, so that a peer that says nothing for the timeout is known to be gone. A thread reads
// and one sends heartbeats; both end with the link. All functions may be called from any thread.
//
// The link fails once: at the first error of the channel, of the framing, or at interrupt(). What
// arrived before is still received; then every call gives that error, of kind kMigration.
class ControlLink {
 public:
  struct Options {
    // How long the peer may be silent.
    std::chrono::milliseconds timeout = kDefaultPeerTimeout;
    // Called once when the link fails, except by interrupt(), on a thread of the link or in send().
    // Does not destroy the link.
    std::function<void()> on_failure = [] {};
  };

  ControlLink(std::unique_ptr<Channel> channel, Options options);
  ControlLink(const ControlLink&) = delete;
  ControlLink& operator=(const ControlLink&) = delete;
  ~ControlLink();

  // Returns when the message is handed to the host's network stack. A payload that is too long for
  // its type is an error that leaves the link as it is.
  [[nodiscard]] Result<> send(std::uint32_t type, std::span<const std::byte> payload = {});
  // The next message; nothing where none came within the timeout.
  [[nodiscard]] Result<std::optional<Frame>> receive(std::chrono::milliseconds timeout);
  // Ends the connection: every call, now and later, fails.
  void interrupt();
  // Why the link has failed, if it has.
  [[nodiscard]] std::optional<Error> error() VMM_EXCLUDES(mutex_);

  [[nodiscard]] const std::string& peer() const { return channel_->peer(); }

 private:
  void read_frames();
  [[nodiscard]] Result<Frame> read_frame();
  [[nodiscard]] Result<> queue(Frame frame);
  void send_heartbeats();
  [[nodiscard]] Result<> write_frame(std::uint32_t type, std::span<const std::byte> payload);
  // Returns whether this was the first error.
  bool fail_link(Error error) VMM_EXCLUDES(mutex_);

  std::unique_ptr<Channel> channel_;
  const Options options_;
  Mutex write_mutex_;

  Mutex mutex_;
  std::condition_variable_any changed_;
  std::deque<Frame> frames_ VMM_GUARDED_BY(mutex_);
  std::size_t queued_bytes_ VMM_GUARDED_BY(mutex_) = 0;
  std::optional<Error> error_ VMM_GUARDED_BY(mutex_);

  std::thread reader_;
  std::thread heartbeats_;
};

}  // namespace vmm::migration
