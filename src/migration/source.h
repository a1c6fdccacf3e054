#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "base/result.h"
#include "memory/dirty_tracker.h"
#include "memory/pagemap.h"
#include "migration/channel.h"
#include "migration/decision_record.h"
#include "migration/guest_port.h"
#include "migration/handover.h"
#include "migration/limits.h"
#include "migration/manifest.h"
#include "migration/memory_digest.h"
#include "migration/peer_clock.h"
#include "migration/peer_link.h"
#include "migration/policy.h"
#include "migration/ram_sender.h"
#include "migration/report.h"

namespace vmm::migration {

// How a guest is to be moved.
struct SourceOptions {
  PolicyLimits limits;          // hardware_offered is filled in by the source
  bool require_hw = false;      // refuse to go on without hardware logging
  unsigned channels = 2;        // data channels, 1 to kMaxDataChannels
  std::uint64_t bandwidth = 0;  // bytes per second over all channels; 0 is without limit
  bool verify = false;          // compare digests of all memory before the commit
  std::chrono::milliseconds peer_timeout = kDefaultPeerTimeout;
  // Send so many bytes of memory without any logging, and end there with the guest still here: what
  // a benchmark compares with.
  std::optional<std::uint64_t> control_run;
};

// Moves a guest to another host: the source's side of docs/migration-protocol.md, from connecting
// to the hand-over. run() blocks a thread of its own; everything else is for any thread.
class Source {
 public:
  // All must outlive it. manifest describes the guest; destination is what the records call the
  // other side.
  Source(SourceGuest& guest, Connector& connector, DecisionRecords& records, Manifest manifest,
         std::string destination, const SourceOptions& options);
  Source(const Source&) = delete;
  Source& operator=(const Source&) = delete;

  // So often the destination is asked for its time; the quickest answer counts.
  static constexpr int kTimesAsked = 8;

  // Returns when the guest runs at the destination, or runs on here with an error that says why
  // (kMigration, or kInterrupted after cancel()), or when a doubt has been resolved. Called once.
  [[nodiscard]] Result<MigrationReport> run();

  // Ends it soon, with the guest still here. Error where the guest has been given up already.
  [[nodiscard]] Result<> cancel();
  // The operator's decision in a migration that is in doubt; error where it is not. For `resume`
  // the disks have been taken back already.
  [[nodiscard]] Result<> resolve(bool resume);
  // The process is about to end: run() returns soon, whatever state it is in.
  void abandon();

  [[nodiscard]] SourceState state() const;
  [[nodiscard]] Progress progress() const;
  [[nodiscard]] const MigrationId& id() const { return manifest_.id; }

 private:
  using Clock = std::chrono::steady_clock;

  // A digest, or building a machine, takes as long as memory and CPU make it; a peer that has died
  // is noticed by the link.
  static constexpr std::chrono::minutes kWorkTimeout{30};
  // For a destination that has closed its data channels to say why.
  static constexpr std::chrono::milliseconds kLastWords{500};

  // The way to the hand-over, step by step.
  [[nodiscard]] Result<> move();
  [[nodiscard]] Result<> connect();
  // A new connection that has said what it is for. cancel() and abandon() interrupt it.
  [[nodiscard]] Result<std::unique_ptr<Channel>> open(const Preamble& preamble,
                                                      std::chrono::milliseconds timeout);
  // Makes it the connection that others interrupt, in place of the one before.
  void set_link(std::unique_ptr<PeerLink> link);
  [[nodiscard]] Result<> open_data_channels(const Accept& accept);
  [[nodiscard]] Result<> run_without_logging(std::uint64_t bytes);
  [[nodiscard]] Result<> start_logging();
  [[nodiscard]] Result<> precopy();
  [[nodiscard]] Result<RoundFacts> send_round();
  // Sends the pending pages and the end of the next round. An error tells the cause, not what it
  // did to the data channels.
  [[nodiscard]] Result<RoundCounters> send_pages();
  // The destination has all of the round just sent.
  [[nodiscard]] Result<> receive_ack();
  [[nodiscard]] Result<> check_hardware_log();
  // Slows the guest; 0 gives it its full speed.
  void set_throttle(unsigned percent);
  [[nodiscard]] Result<> rehearse();
  // Asks the destination for its time, unless it has told it within the last minute.
  [[nodiscard]] Result<> compare_clocks();
  [[nodiscard]] Result<> stop_and_copy();
  [[nodiscard]] Result<> compare_digests();
  [[nodiscard]] Result<> commit();

  // After a failure before the commit: the guest goes on here. Error where it cannot.
  [[nodiscard]] Result<> take_back();
  // The same, as the end of a message: "the guest runs on here".
  [[nodiscard]] std::string taken_back();
  // Asks the destination until it answers or the operator decides.
  [[nodiscard]] Result<MigrationReport> settle_doubt();
  [[nodiscard]] Result<Outcome> ask_outcome();
  void keep_record(SourceOutcome outcome);

  void advance(SourceEvent event);
  void enter(SourceEvent event);  // under mutex_
  template <typename Wanted>
  [[nodiscard]] Result<Wanted> receive() {
    return expect<Wanted>(link_->receive(options_.peer_timeout));
  }
  [[nodiscard]] Result<> check_cancelled() const;

  SourceGuest& guest_;
  Connector& connector_;
  DecisionRecords& records_;
  const Manifest manifest_;
  const std::string destination_;
  const SourceOptions options_;

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  SourceState state_ = SourceState::kConnecting;  // under mutex_
  bool cancelled_ = false;                        // under mutex_
  bool abandoned_ = false;                        // under mutex_
  std::optional<bool> resolution_;                // under mutex_: resume
  Progress progress_;                             // under mutex_
  Channel* opening_ = nullptr;                    // under mutex_: says its preamble
  DigestControl digest_control_;

  // Of run()'s thread alone.
  std::optional<Pagemap> pagemap_;
  std::optional<RoundPolicy> policy_;
  RehearsalFacts rehearsal_;
  DirtyLogMode mode_ = DirtyLogMode::kWriteProtect;
  unsigned throttle_ = 0;  // percent
  std::uint32_t round_ = 0;
  std::uint64_t dirty_pages_ = 0;  // what the next round will look at
  bool paused_ = false;
  bool recorded_ = false;  // that the guest may be elsewhere
  bool released_ = false;
  Clock::time_point begun_;
  Clock::time_point paused_at_;
  Clock::time_point counters_at_;  // when the guest's counters were read
  PeerClock peer_clock_;
  MigrationReport report_;

  // Used by run()'s thread; set, and interrupted by others, under mutex_. Last: their threads use
  // what is above until they end, and the link's the sender.
  std::unique_ptr<DirtyTracker> tracker_;
  std::unique_ptr<RamSender> sender_;
  std::unique_ptr<PeerLink> link_;
};

}  // namespace vmm::migration
