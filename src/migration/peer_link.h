#pragma once

#include <chrono>
#include <memory>
#include <optional>

#include "base/result.h"
#include "migration/channel.h"
#include "migration/control_link.h"
#include "migration/messages.h"

namespace vmm::migration {

// Says a preamble on a new connection and reads the answer. Error (kMigration) with the peer's
// words where it refuses, or where something else answers.
[[nodiscard]] Result<> introduce(Channel& channel, const Preamble& preamble);
// The other side of it: reads a preamble, and answers.
[[nodiscard]] Result<Preamble> read_preamble(Channel& channel);
[[nodiscard]] Result<> answer_preamble(Channel& channel, const PreambleAnswer& answer);

// Messages over a control connection. Threads: as for ControlLink.
class PeerLink {
 public:
  // timeout: how long the peer may be silent.
  PeerLink(std::unique_ptr<Channel> channel, std::chrono::milliseconds timeout);

  [[nodiscard]] Result<> send(const Message& message);
  // The next message; error (kMigration) where none comes in time, where the link has failed, or
  // where the peer has cancelled, with its words.
  [[nodiscard]] Result<Message> receive(std::chrono::milliseconds timeout);
  void interrupt() { link_.interrupt(); }
  [[nodiscard]] const std::string& peer() const { return link_.peer(); }

 private:
  ControlLink link_;
};

// The message where it is of the type wanted, else an error (kMigration) that names both.
template <typename Wanted>
[[nodiscard]] Result<Wanted> expect(Result<Message> message) {
  if (!message) return fail(std::move(message).error());
  if (auto* wanted = std::get_if<Wanted>(&message.value())) return std::move(*wanted);
  if (const auto* discarded = std::get_if<Discarded>(&message.value())) {
    return fail(ErrorKind::kMigration, "the destination has given up: {}", discarded->text);
  }
  return fail(ErrorKind::kMigration, "the peer sent {} where it was to send {}",
              to_string(type_of(message.value())), to_string(type_of(Message(Wanted{}))));
}

}  // namespace vmm::migration
