#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "base/result.h"
#include "migration/channel.h"
#include "migration/control_link.h"
#include "migration/messages.h"
#include "migration/preamble.h"

namespace vmm::migration {

// Says a preamble on a new connection and reads the answer. Error (kMigration) with the peer's
// words where it refuses, or where something else answers.
[[nodiscard]] Result<> introduce(Channel& channel, const Preamble& preamble);
// The other side of it: reads a preamble, which has to come within kPreambleTimeout and the
// channel's timeout, and answers.
[[nodiscard]] Result<Preamble> read_preamble(Channel& channel);
[[nodiscard]] Result<> answer_preamble(Channel& channel, const PreambleAnswer& answer);
// Tells who asks what was decided, and waits for the channel's timeout that it goes.
[[nodiscard]] Result<> answer_query(Channel& channel, Outcome outcome);

// Messages over a control connection. Threads: as for ControlLink.
class PeerLink {
 public:
  // timeout: how long the peer may be silent. on_failure: as in ControlLink::Options.
  PeerLink(
      std::unique_ptr<Channel> channel, std::chrono::milliseconds timeout,
      std::function<void()> on_failure = [] {});

  [[nodiscard]] Result<> send(const Message& message);
  // The next message; error (kMigration) where none comes in time, or the link has failed.
  [[nodiscard]] Result<Message> receive(std::chrono::milliseconds timeout);
  // When the last message that receive() has returned came, which may have waited here to be read.
  [[nodiscard]] std::chrono::steady_clock::time_point arrived_at() const { return arrived_at_; }
  // What the peer gives as its reason where it has given up and says so within the timeout. Other
  // messages are dropped: for a migration that is at its end.
  [[nodiscard]] std::optional<std::string> last_words(std::chrono::milliseconds timeout);
  void interrupt() { link_.interrupt(); }
  // Why the link has failed, if it has.
  [[nodiscard]] std::optional<Error> error() { return link_.error(); }
  [[nodiscard]] const std::string& peer() const { return link_.peer(); }

 private:
  ControlLink link_;
  std::atomic<std::chrono::steady_clock::time_point> arrived_at_;
};

// The words of a message that says that the peer has given up.
[[nodiscard]] std::optional<std::string> reason_to_give_up(const Message& message);

// The message where it is of the type wanted, else an error (kMigration): why the peer has given
// up, or both types.
template <typename Wanted>
[[nodiscard]] Result<Wanted> expect(Result<Message> message) {
  if (!message) return fail(std::move(message).error());
  if (auto* wanted = std::get_if<Wanted>(&message.value())) return std::move(*wanted);
  if (const auto reason = reason_to_give_up(message.value())) {
    return fail(ErrorKind::kMigration, "the peer has given up: {}", *reason);
  }
  return fail(ErrorKind::kMigration, "the peer sent {} where it was to send {}",
              to_string(type_of(message.value())), to_string(type_of(Message(Wanted{}))));
}

}  // namespace vmm::migration
