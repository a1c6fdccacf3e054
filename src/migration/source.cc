#include "migration/source.h"

#include <algorithm>
#include <cstdlib>
#include <ctime>
#include <utility>

#include "base/log.h"
#include "migration/peer_text.h"

namespace vmm::migration {
Source::Source(SourceGuest& guest, Connector& connector, DecisionRecords& records,
               Manifest manifest, std::string destination, const SourceOptions& options)
    : guest_(guest),
      connector_(connector),
      records_(records),
      manifest_(std::move(manifest)),
      destination_(std::move(destination)),
      options_(options) {
  progress_.phase = to_string(state_);
}

// --- Driving ---

Result<MigrationReport> Source::run() {
  begun_ = Clock::now();
  report_.id = manifest_.id;
  auto moved = move();
  if (moved && !options_.control_run) {
    keep_record(SourceOutcome::kDone);
    report_.result = kMigrated;
    report_.total = Clock::now() - begun_;
    return report_;
  }
  if (moved) {
    advance(SourceEvent::kFailure);
    static_cast<void>(link_->send(Cancel{"it was a control run"}));
    TRY(take_back());
    report_.result = "control-run";
    report_.total = Clock::now() - begun_;
    return report_;
  }
  Error error = std::move(moved).error();
  // A destination that has said no has ended it already.
  if (state() != SourceState::kFailed) advance(SourceEvent::kFailure);
  if (state() == SourceState::kInDoubt) {
    log(LogLevel::kWarning, "migration {}: {}; whether {} runs the guest is in doubt",
        manifest_.id.to_string(), error.message(), destination_);
    return settle_doubt();
  }
  if (link_) {
    // So that the destination does not have to wait for its timeout; it may be gone.
    static_cast<void>(link_->send(Cancel{printable(error.message())}));
  }
  const auto end = taken_back();
  const bool cancelled = !check_cancelled();
  return fail(make_error(cancelled ? ErrorKind::kInterrupted : ErrorKind::kMigration, "{}; {}",
                         cancelled ? "the migration was cancelled" : error.message(), end));
}

Result<> Source::move() {
  TRY(connect());
  if (options_.control_run) return run_without_logging(*options_.control_run);
  TRY(start_logging());
  TRY(precopy());
  TRY(stop_and_copy());
  return commit();
}

void Source::advance(SourceEvent event) {
  const std::lock_guard lock(mutex_);
  enter(event);
}

void Source::enter(SourceEvent event) {
  const auto state = next(state_, event);
  if (!state) {
    // Events are ours, messages were checked before: a bug, and no guess about who owns the guest.
    log(LogLevel::kError, "migration: {} in state {}", to_string(event), to_string(state_));
    std::abort();
  }
  state_ = *state;
  progress_.phase = to_string(state_);
  changed_.notify_all();
}

Result<> Source::check_cancelled() const {
  const std::lock_guard lock(mutex_);
  if (cancelled_) return fail(ErrorKind::kInterrupted, "the migration was cancelled");
  return success();
}

Result<> Source::cancel() {
  const std::lock_guard lock(mutex_);
  if (!may_cancel(state_)) {
    return fail(ErrorKind::kFailed, "the migration can no longer be cancelled: {}",
                to_string(state_));
  }
  cancelled_ = true;
  digest_control_.stop = true;
  if (opening_ != nullptr) opening_->interrupt();
  if (sender_) sender_->interrupt();
  if (link_) link_->interrupt();
  changed_.notify_all();
  return success();
}

Result<> Source::resolve(bool resume) {
  const std::lock_guard lock(mutex_);
  if (state_ != SourceState::kInDoubt) {
    return fail(ErrorKind::kFailed, "the migration is not in doubt: {}", to_string(state_));
  }
  resolution_ = resume;
  changed_.notify_all();
  return success();
}

void Source::abandon() {
  static_cast<void>(cancel());
  const std::lock_guard lock(mutex_);
  abandoned_ = true;
  if (opening_ != nullptr) opening_->interrupt();
  if (link_) link_->interrupt();
  changed_.notify_all();
}

SourceState Source::state() const {
  const std::lock_guard lock(mutex_);
  return state_;
}

Progress Source::progress() const {
  const std::lock_guard lock(mutex_);
  Progress progress = progress_;
  if (sender_) {
    const auto round = sender_->progress();
    progress.sent_bytes += round.bytes;
    if (tracker_) progress.remaining_bytes = tracker_->remaining() * kPageSize;
    const double seconds = std::chrono::duration<double>(round.wall).count();
    if (seconds > 0) progress.bytes_per_s = static_cast<double>(round.bytes) / seconds;
    if (progress.bytes_per_s > 0) {
      progress.eta = std::chrono::milliseconds(static_cast<std::int64_t>(
          static_cast<double>(progress.remaining_bytes) * 1000 / progress.bytes_per_s));
    }
  }
  return progress;
}

// --- Before any memory moves ---

Result<> Source::connect() {
  TRY(auto channel,
      open({.kind = ConnectionKind::kControl, .id = manifest_.id}, options_.peer_timeout));
  set_link(std::make_unique<PeerLink>(std::move(channel), options_.peer_timeout, [this] {
    // A round that nobody acknowledges need not be sent to its end.
    const std::lock_guard lock(mutex_);
    if (sender_) sender_->interrupt();
  }));
  TRY(check_cancelled());
  advance(SourceEvent::kConnected);
  TRY(link_->send(ManifestMessage{manifest_}));
  // Building a machine takes its time: what has died is noticed by the link.
  TRY(auto reply, link_->receive(kWorkTimeout));
  if (const auto* refusal = std::get_if<Refuse>(&reply)) {
    return fail(ErrorKind::kMigration, "{} refuses the guest: {}", destination_, refusal->text);
  }
  TRY(const auto accept, expect<Accept>(std::move(reply)));
  TRY(open_data_channels(accept));
  advance(SourceEvent::kAccepted);
  return success();
}

Result<std::unique_ptr<Channel>> Source::open(const Preamble& preamble,
                                              std::chrono::milliseconds timeout) {
  TRY(check_cancelled());
  TRY(auto channel, connector_.connect(timeout));
  channel->set_timeout(timeout);
  {
    const std::lock_guard lock(mutex_);
    if (cancelled_ || abandoned_) return fail(ErrorKind::kInterrupted, "interrupted");
    opening_ = channel.get();
  }
  auto introduced = introduce(*channel, preamble);
  {
    const std::lock_guard lock(mutex_);
    opening_ = nullptr;
  }
  if (!introduced) return fail(std::move(introduced).error());
  return channel;
}

void Source::set_link(std::unique_ptr<PeerLink> link) {
  {
    const std::lock_guard lock(mutex_);
    link_.swap(link);
    if (cancelled_ || abandoned_) link_->interrupt();
  }
  // The threads of the old one, which end here, may want the lock.
  link.reset();
}

Result<> Source::open_data_channels(const Accept& accept) {
  if (accept.channels > manifest_.channels) {
    return fail(ErrorKind::kMigration, "the peer grants {} data channels where {} were asked for",
                accept.channels, manifest_.channels);
  }
  std::vector<std::unique_ptr<Channel>> channels;
  for (std::uint16_t index = 0; index < accept.channels; ++index) {
    TRY(auto channel, open({.kind = ConnectionKind::kData,
                            .id = manifest_.id,
                            .secret = accept.secret,
                            .channel = index},
                           options_.peer_timeout));
    channels.push_back(std::move(channel));
  }
  TRY(pagemap_, Pagemap::open());
  const std::lock_guard lock(mutex_);
  // From here on the link's failure interrupts the sender.
  if (const auto error = link_->error()) return fail(*error);
  tracker_ = std::make_unique<DirtyTracker>(guest_.dirty_log(), guest_.memory());
  sender_ = std::make_unique<RamSender>(guest_.memory(), *tracker_, *pagemap_, std::move(channels));
  sender_->set_rate(options_.bandwidth);
  return success();
}

Result<> Source::run_without_logging(std::uint64_t bytes) {
  TRY(check_cancelled());
  TRY(const auto counters, sender_->send_unlogged(1, bytes));
  TRY(link_->send(RoundEnd{1}));
  TRY(receive<RoundAck>());
  MigrationReport::Round round;
  round.dirty_pages = counters.pages;
  round.sent_bytes = counters.bytes;
  round.zero_pages = counters.zero_pages;
  round.time = counters.wall;
  report_.rounds.push_back(round);
  return success();
}

// --- Rounds while the guest runs ---

Result<> Source::start_logging() {
  auto limits = options_.limits;
  limits.hardware_offered = guest_.dirty_log().offers(DirtyLogMode::kHardware);
  if (!limits.hardware_offered && (options_.require_hw || limits.log == LogChoice::kHardware)) {
    return fail(ErrorKind::kHost, "this host's KVM has no hardware dirty logging");
  }
  policy_.emplace(limits);
  mode_ = policy_->first_mode();
  TRY(tracker_->start(mode_));
  log(LogLevel::kInfo, "migration {}: dirty logging by {}", manifest_.id.to_string(),
      mode_ == DirtyLogMode::kHardware ? "hardware" : "write protection");
  dirty_pages_ = tracker_->pages();
  return success();
}

Result<> Source::precopy() {
  for (;;) {
    TRY(const auto facts, send_round());
    if (facts.n == 1) {
      TRY(check_hardware_log());
      TRY(rehearse());
    }
    const auto decision = policy_->after_round(facts, rehearsal_, Clock::now() - begun_);
    log(LogLevel::kInfo, "migration {}: round {}: {}", manifest_.id.to_string(), facts.n,
        decision.reason);
    switch (decision.action) {
      case RoundAction::kContinue:
        break;
      case RoundAction::kSwitchToWriteProtect: {
        mode_ = DirtyLogMode::kWriteProtect;
        TRY(tracker_->set_mode(mode_));
        break;
      }
      case RoundAction::kSwitchToHardware: {
        mode_ = DirtyLogMode::kHardware;
        TRY(tracker_->set_mode(mode_));
        break;
      }
      case RoundAction::kThrottle:
        set_throttle(decision.throttle_percent);
        break;
      case RoundAction::kStopAndCopy:
        return success();
      case RoundAction::kGiveUp:
        return fail(ErrorKind::kMigration, "{}", decision.reason);
    }
  }
}

Result<RoundFacts> Source::send_round() {
  TRY(check_cancelled());
  RoundFacts facts;
  facts.n = round_ + 1;
  facts.mode = mode_;
  facts.pages_dirty_at_start = dirty_pages_;
  const auto cleared = tracker_->clear_time();
  const auto begun = Clock::now();
  TRY(const auto counters, send_pages());
  TRY(receive_ack());
  facts.duration = Clock::now() - begun;
  TRY(compare_clocks());
  facts.clear_time = tracker_->clear_time() - cleared;
  facts.pages_sent = counters.pages;
  facts.zero_pages = counters.zero_pages;
  facts.bytes_sent = counters.bytes;
  const auto harvest = Clock::now();
  TRY(dirty_pages_, tracker_->harvest());
  facts.get_time = Clock::now() - harvest;
  facts.dirty_at_end = dirty_pages_;
  report_.rounds.push_back({facts.n, facts.mode, facts.pages_dirty_at_start, facts.bytes_sent,
                            facts.zero_pages, facts.duration, facts.get_time, facts.clear_time,
                            throttle_});
  const std::lock_guard lock(mutex_);
  const double seconds = std::chrono::duration<double>(facts.duration).count();
  if (seconds > 0) progress_.dirty_pages_per_s = static_cast<double>(dirty_pages_) / seconds;
  return facts;
}

Result<RoundCounters> Source::send_pages() {
  {
    const std::lock_guard lock(mutex_);
    // Those of the rounds before; the sender counts the one under way.
    progress_.sent_bytes += sender_->progress().bytes;
    progress_.round = ++round_;
    progress_.mode = mode_;
  }
  auto counters = sender_->send_round(round_, round_ == 1);
  if (counters) {
    TRY(link_->send(RoundEnd{round_}));
    return counters;
  }
  if (const auto words = link_->last_words(kLastWords)) {
    return fail(ErrorKind::kMigration, "{} has given up: {}", destination_, *words);
  }
  if (const auto error = link_->error()) return fail(*error);
  return counters;
}

Result<> Source::receive_ack() {
  TRY(const auto ack, receive<RoundAck>());
  if (ack.round == round_) return success();
  return fail(ErrorKind::kMigration, "the peer acknowledged round {} instead of {}", ack.round,
              round_);
}

Result<> Source::check_hardware_log() {
  if (mode_ != DirtyLogMode::kHardware) return success();
  TRY(const auto armed, guest_.dirty_log().armed());
  if (armed != 0) return success();
  return fail(ErrorKind::kHost,
              "hardware dirty logging is on but the kernel has armed no page for it");
}

Result<> Source::compare_clocks() {
  if (!peer_clock_.is_stale(Clock::now())) return success();
  PeerClock clock;
  for (int i = 0; i < kTimesAsked; ++i) {
    const auto asked = Clock::now();
    TRY(link_->send(AskTime{}));
    TRY(const auto time, receive<TimeMessage>());
    clock.learn(asked, Nanoseconds(time.ns), link_->arrived_at());
  }
  peer_clock_ = clock;
  return success();
}

void Source::set_throttle(unsigned percent) {
  if (percent == throttle_) return;
  guest_.throttle(percent);
  throttle_ = percent;
  const std::lock_guard lock(mutex_);
  progress_.throttle_percent = percent;
}

Result<> Source::rehearse() {
  const auto begun = Clock::now();
  TRY(guest_.pause());
  paused_ = true;
  auto machine = guest_.save();
  const auto saved = Clock::now();
  // Whatever became of it, the guest goes on.
  TRY(guest_.resume());
  paused_ = false;
  if (!machine) return fail(std::move(machine).error());
  TRY(link_->send(Rehearse{std::move(machine.value().state)}));
  TRY(const auto rehearsed, receive<Rehearsed>());
  rehearsal_.save = saved - begun;
  // The peer's word for it, as far as that can be.
  const Nanoseconds waited = Clock::now() - saved;
  rehearsal_.restore = std::min(Nanoseconds(rehearsed.restore_ns), waited);
  rehearsal_.transfer = waited - rehearsal_.restore;
  return success();
}

}  // namespace vmm::migration
