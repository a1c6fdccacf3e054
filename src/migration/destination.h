#pragma once

#include <array>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "base/result.h"
#include "migration/channel.h"
#include "migration/decision_record.h"
#include "migration/guest_port.h"
#include "migration/handover.h"
#include "migration/limits.h"
#include "migration/manifest.h"
#include "migration/memory_digest.h"
#include "migration/peer_link.h"
#include "migration/ram_receiver.h"

namespace vmm::migration {

// Takes one guest in: the destination's side of docs/migration-protocol.md. Connections are
// accepted for as long as the object lives, so that a source that has lost its connection can ask
// what was decided.
//
//   await_manifest() ──► refuse() ──► await_manifest() …
//                  └───► receive()
//
// These three are for one thread at a time; cancel() is for any.
class Destination {
 public:
  // Both must outlive it. peer_timeout: how long the source may be silent.
  Destination(Acceptor& acceptor, DecisionRecords& records, std::chrono::milliseconds peer_timeout);
  Destination(const Destination&) = delete;
  Destination& operator=(const Destination&) = delete;
  ~Destination();

  // Waits for a guest that wants to come here. Error (kInterrupted) after cancel().
  [[nodiscard]] Result<Manifest> await_manifest();
  // Turns that guest away, and tells its source why.
  void refuse(const Error& reason);
  // Accepts that guest, and returns once it runs here, or with an error when it never will.
  [[nodiscard]] Result<> receive(DestinationGuest& guest);
  // Ends it, unless the guest runs here already.
  void cancel();

  [[nodiscard]] DestinationState state() const;

 private:
  using Clock = std::chrono::steady_clock;
  // What one source and its connections are.
  struct Session {
    MigrationId id;
    Clock::time_point begun = Clock::now();
    Manifest manifest;
    Secret secret{};
    std::vector<std::unique_ptr<Channel>> data;  // those that have come are not null
    std::uint32_t complete_rounds = 0;
    std::optional<Error> failure;  // of the data channels
    bool link_failed = false;
    // Last: their threads use what is above until they end.
    std::unique_ptr<PeerLink> link;
    std::unique_ptr<RamReceiver> receiver;
  };

  void accept_connections();
  // A new connection, up to the answer of its preamble. The channel stays in greeting_, where it
  // can be interrupted, unless it becomes one of the session's.
  void greet(std::unique_ptr<Channel>& channel);
  [[nodiscard]] Result<> dispatch(std::unique_ptr<Channel>& channel, const Preamble& preamble);
  [[nodiscard]] Result<> tell_decision(Channel& channel, const MigrationId& id);
  [[nodiscard]] Result<Outcome> decision_of(const MigrationId& id);
  [[nodiscard]] Result<> open_session(std::unique_ptr<Channel>& channel, const MigrationId& id);
  [[nodiscard]] Result<> add_data_channel(std::unique_ptr<Channel>& channel,
                                          const Preamble& preamble);

  // The way to a running guest, step by step.
  [[nodiscard]] Result<> take_in(DestinationGuest& guest);
  [[nodiscard]] Result<> open_data_channels(DestinationGuest& guest);
  [[nodiscard]] Result<> receive_until_prepared(DestinationGuest& guest);
  void start_receiver(DestinationGuest& guest);
  [[nodiscard]] Result<Message> next_message();
  [[nodiscard]] Result<> wait_for_round(std::uint32_t round);
  [[nodiscard]] Result<> tell_time();
  // Why the session cannot go on: what the source says before what was noticed here.
  [[nodiscard]] Error cause(Error noticed);
  [[nodiscard]] Result<std::uint64_t> restore(DestinationGuest& guest,
                                              std::span<const std::byte> state);
  [[nodiscard]] Result<Commit> wait_for_commit(DestinationGuest& guest);
  [[nodiscard]] Result<> start(DestinationGuest& guest, const Commit& commit,
                               Clock::time_point committed);

  void advance(DestinationEvent event);
  void close_session();

  Acceptor& acceptor_;
  DecisionRecords& records_;
  const std::chrono::milliseconds peer_timeout_;

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  DestinationState state_ = DestinationState::kListening;  // under mutex_
  bool cancelled_ = false;                                 // under mutex_
  bool closing_ = false;                                   // under mutex_
  std::optional<MigrationId> taken_;                       // under mutex_: what receive() is for
  std::size_t strangers_ = 0;                              // under mutex_: they asked for records
  std::unique_ptr<Session> session_;  // set under mutex_; used by the thread of the three
  std::list<std::unique_ptr<Channel>> greeting_;  // under mutex_: connections not yet dispatched
  DigestControl digest_control_;
  std::thread acceptor_thread_;
};

}  // namespace vmm::migration
