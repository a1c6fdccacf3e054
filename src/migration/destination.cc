#include "migration/destination.h"

#include <algorithm>
#include <cstdlib>
#include <ctime>
#include <utility>

#include "base/log.h"
#include "migration/peer_text.h"

namespace vmm::migration {
namespace {

// For what the source does between two messages: rounds take as long as they take. One that has
// died is noticed by the link.
constexpr std::chrono::hours kWorkTimeout{24};

}  // namespace

Destination::Destination(Acceptor& acceptor, DecisionRecords& records,
                         std::chrono::milliseconds peer_timeout)
    : acceptor_(acceptor), records_(records), peer_timeout_(peer_timeout) {
  acceptor_thread_ = std::thread([this] { accept_connections(); });
}

Destination::~Destination() {
  cancel();
  {
    const std::lock_guard lock(mutex_);
    closing_ = true;
    changed_.notify_all();
  }
  acceptor_.interrupt();
  acceptor_thread_.join();
  std::unique_lock lock(mutex_);
  for (const auto& channel : greeting_) {
    if (channel) channel->interrupt();
  }
  changed_.wait(lock, [this] { return greeting_.empty(); });
}

DestinationState Destination::state() const {
  const std::lock_guard lock(mutex_);
  return state_;
}

void Destination::advance(DestinationEvent event) {
  const std::lock_guard lock(mutex_);
  const auto state = next(state_, event);
  if (!state) {
    // Messages were checked before: a bug of ours, and no guess about who owns the guest.
    log(LogLevel::kError, "migration: {} in state {}", to_string(event), to_string(state_));
    std::abort();
  }
  state_ = *state;
  changed_.notify_all();
}

void Destination::cancel() {
  const std::lock_guard lock(mutex_);
  if (state_ == DestinationState::kRunning) return;
  cancelled_ = true;
  digest_control_.stop = true;
  // The data channels end with the session.
  if (session_ && session_->link) session_->link->interrupt();
  changed_.notify_all();
}

Result<Manifest> Destination::await_manifest() {
  for (;;) {
    PeerLink* link = nullptr;
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [this] { return cancelled_ || (session_ && session_->link); });
      if (cancelled_) return fail(ErrorKind::kInterrupted, "interrupted");
      link = session_->link.get();
    }
    auto message = expect<ManifestMessage>(link->receive(peer_timeout_));
    if (message && message.value().manifest.id == session_->id) {
      session_->manifest = message.value().manifest;
      return std::move(message.value().manifest);
    }
    const auto reason =
        message ? std::string("a manifest of another migration") : message.error().message();
    log(LogLevel::kWarning, "{}: {}", link->peer(), reason);
    refuse(make_error(ErrorKind::kFailed, "{}", reason));
  }
}

void Destination::refuse(const Error& reason) {
  // The source may be gone; it learns the same from the closed connection.
  static_cast<void>(session_->link->send(Refuse{reason.kind(), printable(reason.message())}));
  static_cast<void>(session_->link->receive(peer_timeout_));
  close_session();
}

Result<> Destination::receive(DestinationGuest& guest) {
  {
    const std::lock_guard lock(mutex_);
    taken_ = session_->id;
  }
  auto taken = take_in(guest);
  if (taken) {
    log(LogLevel::kInfo, "{} has arrived", session_->manifest.guest);
    close_session();
    return success();
  }
  Error error = std::move(taken).error();
  if (state() != DestinationState::kRunning) {
    // First: who asks is told so from then on, and takes the disks.
    static_cast<void>(guest.release_disks());
    advance(DestinationEvent::kFailure);
    const auto decided = records_.decide(session_->id, Outcome::kDiscarded, std::time(nullptr));
    if (!decided) log(LogLevel::kWarning, "{}", decided.error().message());
    // The record is for those who ask later. Nothing can start the guest here any more, so that the
    // source may know even where it could not be written.
    static_cast<void>(session_->link->send(Discarded{printable(error.message())}));
  }
  error.add_context(fmt::format("{} does not run here", session_->manifest.guest));
  close_session();
  return fail(std::move(error));
}

Result<> Destination::take_in(DestinationGuest& guest) {
  advance(DestinationEvent::kManifestAccepted);
  TRY(open_data_channels(guest));
  TRY(receive_until_prepared(guest));
  advance(DestinationEvent::kPrepared);
  TRY(const auto commit, wait_for_commit(guest));
  const auto committed = session_->link->arrived_at();
  advance(DestinationEvent::kCommitReceived);
  return start(guest, commit, committed);
}

Result<> Destination::open_data_channels(DestinationGuest& guest) {
  const auto count = std::clamp<std::uint16_t>(session_->manifest.channels, 1, kMaxDataChannels);
  {
    const std::lock_guard lock(mutex_);
    session_->data.resize(count);
  }
  TRY(session_->link->send(Accept{session_->secret, count}));
  {
    std::unique_lock lock(mutex_);
    const auto complete = [this] {
      return std::ranges::none_of(session_->data, [](const auto& one) { return one == nullptr; });
    };
    changed_.wait_for(lock, peer_timeout_,
                      [&] { return cancelled_ || session_->link_failed || complete(); });
    if (!cancelled_ && !session_->link_failed && complete()) {
      start_receiver(guest);
      return success();
    }
  }
  return fail(cause(
      make_error(ErrorKind::kMigration, "the source has not opened its data channels in time")));
}

// Under mutex_: another data channel may be about to be refused.
void Destination::start_receiver(DestinationGuest& guest) {
  // The session is there until the receiver's threads have ended.
  Session& session = *session_;
  const auto on_round = [this, &session](std::uint32_t round) {
    const std::lock_guard locked(mutex_);
    session.complete_rounds = round;
    changed_.notify_all();
  };
  const auto on_failure = [this, &session](const Error& error) {
    {
      const std::lock_guard locked(mutex_);
      session.failure = error;
      changed_.notify_all();
    }
    // The source learns the cause before the connection goes.
    static_cast<void>(session.link->send(Cancel{printable(error.message())}));
    session.link->interrupt();
  };
  session.receiver = std::make_unique<RamReceiver>(guest.memory(), std::exchange(session.data, {}),
                                                   RamReceiver::Events{on_round, on_failure});
}

Error Destination::cause(Error noticed) {
  {
    const std::lock_guard lock(mutex_);
    if (cancelled_) return make_error(ErrorKind::kInterrupted, "interrupted");
  }
  if (const auto words = session_->link->last_words(std::chrono::milliseconds(0))) {
    return make_error(ErrorKind::kMigration, "{} has given up: {}", session_->link->peer(), *words);
  }
  const std::lock_guard lock(mutex_);
  if (session_->failure) return *session_->failure;
  if (session_->link_failed) return session_->link->error().value_or(noticed);
  return noticed;
}

Result<Message> Destination::next_message() {
  auto message = session_->link->receive(kWorkTimeout);
  if (!message) return fail(cause(std::move(message).error()));
  return message;
}

Result<> Destination::receive_until_prepared(DestinationGuest& guest) {
  for (;;) {
    TRY(auto message, next_message());
    if (const auto* end = std::get_if<RoundEnd>(&message)) {
      TRY(wait_for_round(end->round));
      TRY(session_->link->send(RoundAck{end->round}));
    } else if (std::holds_alternative<AskTime>(message)) {
      TRY(tell_time());
    } else if (const auto* rehearsal = std::get_if<Rehearse>(&message)) {
      TRY(const auto restore_ns, restore(guest, rehearsal->state));
      TRY(session_->link->send(Rehearsed{restore_ns}));
    } else {
      TRY(const auto state, expect<State>(std::move(message)));
      TRY(session_->receiver->finish());
      TRY(const auto restore_ns, restore(guest, state.state));
      return session_->link->send(Prepared{restore_ns});
    }
  }
}

Result<> Destination::wait_for_round(std::uint32_t round) {
  {
    std::unique_lock lock(mutex_);
    if (round != session_->complete_rounds && round != session_->complete_rounds + 1) {
      return fail(ErrorKind::kMigration, "the source ends round {} after round {}", round,
                  session_->complete_rounds);
    }
    changed_.wait(lock, [&] {
      return session_->complete_rounds >= round || session_->failure || session_->link_failed ||
             cancelled_;
    });
    if (session_->complete_rounds >= round) return success();
  }
  return fail(cause(make_error(ErrorKind::kMigration, "round {} has not arrived", round)));
}

Result<> Destination::tell_time() {
  const auto asked = session_->link->arrived_at();
  const auto halfway = asked + (Clock::now() - asked) / 2;
  return session_->link->send(TimeMessage{to_ns(halfway - session_->begun)});
}

Result<std::uint64_t> Destination::restore(DestinationGuest& guest,
                                           std::span<const std::byte> state) {
  const auto begun = Clock::now();
  TRY(guest.restore(state));
  return to_ns(Clock::now() - begun);
}

Result<Commit> Destination::wait_for_commit(DestinationGuest& guest) {
  TRY(auto message, next_message());
  if (std::holds_alternative<Verify>(message)) {
    TRY(const auto pagemap, Pagemap::open());
    TRY(const auto digest, memory_digest(guest.memory(), pagemap, digest_control_));
    TRY(session_->link->send(Digest{digest}));
    TRY(message, next_message());
  }
  return expect<Commit>(std::move(message));
}

Result<> Destination::start(DestinationGuest& guest, const Commit& commit,
                            Clock::time_point committed) {
  TRY(guest.acquire_disks());
  const auto acquired = Clock::now();
  {
    const std::lock_guard lock(mutex_);
    if (cancelled_) return fail(ErrorKind::kInterrupted, "interrupted");
  }
  auto outcome = records_.decide(session_->id, Outcome::kStarted, std::time(nullptr));
  if (!outcome) {
    log(LogLevel::kWarning, "{}", outcome.error().message());
    // It may be on the disk for all that: what counts is what the record says.
    TRY(outcome, records_.decide(session_->id, Outcome::kDiscarded, std::time(nullptr)));
  }
  if (outcome.value() != Outcome::kStarted) {
    return fail(ErrorKind::kMigration, "it is recorded that the guest does not start here");
  }
  advance(DestinationEvent::kRecordedStart);
  const auto recorded = Clock::now();
  if (!may_run(state())) std::abort();  // two guests would run
  TRY(guest.start(saved_at(commit, session_->begun, committed)));
  const Started started{to_ns(acquired - committed), to_ns(recorded - acquired),
                        to_ns(Clock::now() - recorded)};
  // A source that does not hear it asks for the record.
  if (session_->link->send(started)) static_cast<void>(session_->link->receive(peer_timeout_));
  return success();
}

}  // namespace vmm::migration
