#include <cstdlib>
#include <ctime>
#include <utility>

#include "base/log.h"
#include "migration/destination.h"
#include "migration/peer_text.h"
#include "migration/preamble.h"

// The destination's connections, up to the point where the session has them.
namespace vmm::migration {
namespace {

// Connections that have not said yet what they want; more are closed at once.
constexpr std::size_t kMaxGreeting = 32;
// Records of migrations that nobody here has heard of before somebody asked.
constexpr std::size_t kMaxStrangers = 64;
// What a destination that has been given the guest needs to take its disks and to record that; well
// within the time that who asks waits.
constexpr auto kDecisionTime = kPreambleTimeout / 2;

bool is_decided(DestinationState state) {
  return state == DestinationState::kRunning || state == DestinationState::kDiscarded;
}

}  // namespace

void Destination::accept_connections() {
  for (;;) {
    auto channel = acceptor_.accept(kPreambleTimeout);
    {
      const std::lock_guard lock(mutex_);
      if (closing_) return;
    }
    if (!channel) {
      log(LogLevel::kWarning, "{}", channel.error().message());
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
      continue;
    }
    const std::lock_guard lock(mutex_);
    if (greeting_.size() >= kMaxGreeting) continue;  // closes it
    const auto place = greeting_.insert(greeting_.end(), std::move(channel).value());
    // Whoever says nothing holds up nobody else. The destructor waits until none is left.
    std::thread([this, place] {
      greet(*place);
      const std::lock_guard locked(mutex_);
      greeting_.erase(place);
      changed_.notify_all();
    }).detach();
  }
}

void Destination::greet(std::unique_ptr<Channel>& channel) {
  const std::string peer = channel->peer();
  const auto preamble = read_preamble(*channel);
  if (!preamble && preamble.error().kind() == ErrorKind::kFailed) {
    // What was read makes no sense here: another version, perhaps, which then can say so.
    static_cast<void>(answer_preamble(*channel, {1, printable(preamble.error().message())}));
  }
  const auto result =
      preamble ? dispatch(channel, preamble.value()) : Result<>(fail(preamble.error()));
  if (!result) log(LogLevel::kWarning, "connection from {}: {}", peer, result.error().message());
}

Result<> Destination::dispatch(std::unique_ptr<Channel>& channel, const Preamble& preamble) {
  switch (preamble.kind) {
    case ConnectionKind::kQuery:
      return tell_decision(*channel, preamble.id);
    case ConnectionKind::kControl:
      return open_session(channel, preamble.id);
    case ConnectionKind::kData:
      return add_data_channel(channel, preamble);
  }
  return success();
}

Result<> Destination::tell_decision(Channel& channel, const MigrationId& id) {
  TRY(const auto outcome, decision_of(id));
  TRY(answer_preamble(channel, {}));
  return answer_query(channel, outcome);
}

Result<Outcome> Destination::decision_of(const MigrationId& id) {
  {
    // One that is about to be decided is waited for, rather than ended by the question.
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, kDecisionTime, [&] {
      return closing_ || !session_ || session_->id != id || is_decided(state_);
    });
    // What this process has done it knows without the disk, which may have failed since.
    if (taken_ == id && is_decided(state_)) {
      return state_ == DestinationState::kRunning ? Outcome::kStarted : Outcome::kDiscarded;
    }
  }
  TRY(const auto recorded, records_.lookup(id));
  if (recorded) return recorded->outcome;
  {
    const std::lock_guard lock(mutex_);
    if (taken_ != id && ++strangers_ > kMaxStrangers) {
      return fail(ErrorKind::kMigration, "too many migrations are asked for that are unknown here");
    }
  }
  // Where nothing is decided it is now: a guest that has not started never will.
  return records_.decide(id, Outcome::kDiscarded, std::time(nullptr));
}

Result<> Destination::open_session(std::unique_ptr<Channel>& channel, const MigrationId& id) {
  std::unique_lock lock(mutex_);
  if (cancelled_) return fail(ErrorKind::kInterrupted, "interrupted");
  if (session_ || state_ != DestinationState::kListening) {
    lock.unlock();
    return answer_preamble(*channel, {1, "it is taken by another migration"});
  }
  auto session = std::make_unique<Session>();
  session->id = id;
  TRY(session->secret, random_secret());
  // Claimed before the answer, so that no other connection is told the same.
  session_ = std::move(session);
  lock.unlock();
  const auto answered = answer_preamble(*channel, {});
  channel->set_timeout(peer_timeout_);
  lock.lock();
  if (!answered) {
    session_.reset();
    return fail(answered.error());
  }
  // The session is there until the link's threads have ended.
  session_->link =
      std::make_unique<PeerLink>(std::move(channel), peer_timeout_, [this, &session = *session_] {
        const std::lock_guard locked(mutex_);
        session.link_failed = true;
        changed_.notify_all();
      });
  if (cancelled_) session_->link->interrupt();  // since it was claimed
  changed_.notify_all();
  return success();
}

Result<> Destination::add_data_channel(std::unique_ptr<Channel>& channel,
                                       const Preamble& preamble) {
  const auto belongs = [this, &preamble] {
    return session_ && session_->id == preamble.id &&
           same_secret(session_->secret, preamble.secret) &&
           preamble.channel < session_->data.size() && !session_->data[preamble.channel];
  };
  {
    const std::lock_guard lock(mutex_);
    if (!belongs()) {
      static_cast<void>(answer_preamble(*channel, {1, "no migration here has this connection"}));
      return fail(ErrorKind::kMigration, "a data channel that belongs to no migration");
    }
  }
  TRY(answer_preamble(*channel, {}));
  const std::lock_guard lock(mutex_);
  if (!belongs()) return fail(ErrorKind::kMigration, "its migration has ended");
  session_->data[preamble.channel] = std::move(channel);
  changed_.notify_all();
  return success();
}

void Destination::close_session() {
  std::unique_ptr<Session> session;
  {
    const std::lock_guard lock(mutex_);
    session = std::move(session_);
    changed_.notify_all();
  }
  // Threads of the session end here, without the lock that they may want.
  session.reset();
}

}  // namespace vmm::migration
