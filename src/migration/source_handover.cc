// The source's part of the hand-over: from the moment the guest stands still.

#include <algorithm>
#include <cstdlib>
#include <ctime>

#include "base/log.h"
#include "migration/source.h"

namespace vmm::migration {
namespace {

// Between two questions to a destination whose decision is not known.
constexpr std::chrono::seconds kAskInterval{1};
// Disks that are slow to open, and a record that is slow to be durable. Whoever is dead is noticed
// by the link.
constexpr std::chrono::minutes kStartTimeout{1};

}  // namespace

// --- The guest stands still ---

Result<> Source::stop_and_copy() {
  TRY(check_cancelled());
  // Should this process die, the operator finds out here that the guest may be elsewhere.
  keep_record(SourceOutcome::kCommitted);
  recorded_ = true;
  paused_at_ = Clock::now();
  TRY(guest_.pause());
  paused_ = true;
  // Wherever it runs next, it does so at full speed.
  set_throttle(0);
  advance(SourceEvent::kGuestPaused);
  const auto stopped = Clock::now();
  report_.parts.pause = stopped - paused_at_;
  TRY(auto machine, guest_.save());
  counters_at_ = machine.counters_at;
  const auto saved = Clock::now();
  report_.parts.save = saved - stopped;
  // After everything is saved, so that what devices wrote until then is found, too.
  TRY(dirty_pages_, tracker_->harvest());
  const auto harvested = Clock::now();
  report_.parts.harvest = harvested - saved;

  const auto cleared = tracker_->clear_time();
  TRY(const auto counters, send_pages());
  TRY(link_->send(State{std::move(machine.state)}));
  TRY(receive_ack());
  const auto sent = Clock::now();
  report_.rounds.push_back({round_, mode_, dirty_pages_, counters.bytes, counters.zero_pages,
                            sent - harvested, report_.parts.harvest,
                            tracker_->clear_time() - cleared, throttle_});
  TRY(const auto prepared, receive<Prepared>());
  const auto waited = Clock::now() - harvested;
  // The destination restores as soon as it has everything, which may be before this side has read
  // that it does.
  report_.parts.restore = std::min(Nanoseconds(prepared.restore_ns), waited);
  report_.parts.send = std::min(sent - harvested, waited - report_.parts.restore);
  report_.parts.transfer = waited - report_.parts.restore - report_.parts.send;
  if (options_.verify) {
    TRY(compare_digests());
  }
  advance(SourceEvent::kPeerPrepared);
  return success();
}

Result<> Source::compare_digests() {
  const auto begun = Clock::now();
  TRY(link_->send(Verify{}));
  TRY(const auto ours, memory_digest(guest_.memory(), *pagemap_, digest_control_));
  TRY(const auto theirs, expect<Digest>(link_->receive(kWorkTimeout)));
  report_.verify =
      MigrationReport::Verify{to_string(ours), to_string(theirs.sha256), Clock::now() - begun};
  if (ours == theirs.sha256) return success();
  return fail(ErrorKind::kMigration, "guest memory differs: SHA-256 {} here, {} at {}",
              report_.verify->source, report_.verify->destination, destination_);
}

Result<> Source::commit() {
  TRY(check_cancelled());
  TRY(guest_.release_disks());
  released_ = true;
  // Flushing may have taken long, and this is the last moment for a cancel.
  TRY(check_cancelled());
  advance(SourceEvent::kDisksReleased);
  const auto released = Clock::now();
  // From here on the destination may run the guest, whatever happens to this message.
  {
    // Who was told that it is cancelled is right.
    const std::lock_guard lock(mutex_);
    if (cancelled_) return fail(ErrorKind::kInterrupted, "the migration was cancelled");
    enter(SourceEvent::kCommitting);
  }
  TRY(link_->send(Commit{to_ns(peer_clock_.at(counters_at_))}));
  TRY(auto reply, link_->receive(kStartTimeout));
  if (const auto* discarded = std::get_if<Discarded>(&reply)) {
    advance(SourceEvent::kPeerDiscarded);
    return fail(ErrorKind::kMigration, "{} could not start the guest: {}", destination_,
                discarded->text);
  }
  TRY(expect<Started>(std::move(reply)));
  advance(SourceEvent::kPeerStarted);
  const auto started = Clock::now();
  report_.parts.resume = started - released;
  report_.downtime = started - paused_at_;
  if (report_.verify) report_.downtime -= report_.verify->time;
  // That it has heard is for the destination's peace of mind only.
  static_cast<void>(link_->send(Done{}));
  return success();
}

// --- When it did not work ---

std::string Source::taken_back() {
  const auto taken = take_back();
  if (taken) return "the guest runs on here";
  return fmt::format("the guest stays paused here: {}", taken.error().message());
}

Result<> Source::take_back() {
  set_throttle(0);
  if (tracker_) {
    if (const auto stopped = tracker_->stop(); !stopped) {
      log(LogLevel::kError, "dirty logging stays on: {}", stopped.error().message());
    }
  }
  while (released_) {
    const auto taken = guest_.reacquire_disks();
    if (taken) break;
    log(LogLevel::kError, "the guest waits for its disks: {}", taken.error().message());
    std::unique_lock lock(mutex_);
    if (changed_.wait_for(lock, kAskInterval, [this] { return abandoned_; })) return taken;
  }
  if (recorded_) keep_record(SourceOutcome::kResumed);
  Result<> resumed = success();
  if (paused_) {
    if (!may_run(state())) std::abort();  // two guests would run
    resumed = guest_.resume();
  }
  // Now that the guest is served: the destination, which was told why, goes first, so that it does
  // not take the end of a data channel for the cause.
  if (link_) static_cast<void>(link_->last_words(kLastWords));
  const std::lock_guard lock(mutex_);
  if (sender_) sender_->interrupt();
  if (link_) link_->interrupt();
  return resumed;
}

Result<MigrationReport> Source::settle_doubt() {
  guest_.mark_in_doubt();
  keep_record(SourceOutcome::kInDoubt);
  link_->interrupt();
  for (;;) {
    const auto outcome = ask_outcome();
    std::optional<bool> resolution;
    {
      std::unique_lock lock(mutex_);
      if (!outcome) {
        changed_.wait_for(lock, kAskInterval, [this] { return resolution_ || abandoned_; });
      }
      if (abandoned_)
        return fail(ErrorKind::kInDoubt, "whether the guest runs elsewhere is in doubt");
      resolution = resolution_;
    }
    if (outcome ? outcome.value() == Outcome::kStarted : resolution == false) {
      advance(outcome ? SourceEvent::kPeerStarted : SourceEvent::kResolvedDiscard);
      keep_record(outcome ? SourceOutcome::kDone : SourceOutcome::kDiscarded);
      report_.result = kMigrated;
      report_.total = Clock::now() - begun_;
      report_.downtime = Clock::now() - paused_at_;
      return report_;
    }
    if (!outcome && !resolution) continue;
    advance(outcome ? SourceEvent::kPeerDiscarded : SourceEvent::kResolvedResume);
    return fail(ErrorKind::kMigration, "{} did not start the guest; {}", destination_,
                taken_back());
  }
}

Result<Outcome> Source::ask_outcome() {
  const auto timeout = std::min(options_.peer_timeout, kPreambleTimeout);
  TRY(auto channel, open({.kind = ConnectionKind::kQuery, .id = manifest_.id}, timeout));
  set_link(std::make_unique<PeerLink>(std::move(channel), timeout));
  TRY(const auto answer, expect<OutcomeMessage>(link_->receive(timeout)));
  link_->interrupt();
  return answer.outcome;
}

void Source::keep_record(SourceOutcome outcome) {
  const auto kept =
      records_.put({manifest_.id, manifest_.guest, destination_, outcome, std::time(nullptr)});
  // The record is for the operator's eyes: what decides is the destination's.
  if (!kept) log(LogLevel::kWarning, "migration record: {}", kept.error().message());
}

}  // namespace vmm::migration
