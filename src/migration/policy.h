#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "memory/dirty_log.h"

// When to send another round, change the way of dirty logging, stop the guest, or give up. Pure: no
// clock and no socket, the same facts give the same decision.
namespace vmm::migration {

using Nanoseconds = std::chrono::nanoseconds;

enum class OnTimeout : std::uint8_t {
  kCancel,       // the guest stays
  kStopAndCopy,  // the guest moves, with the downtime it takes
};

// kAuto: hardware for bulk and write-protect towards the stop; the others: that way throughout.
enum class LogChoice : std::uint8_t { kAuto, kHardware, kWriteProtect };

// Percent. A guest that did not run at all would stand still without that being called downtime.
inline constexpr unsigned kMostThrottle = 99;

// total_time and max_rounds are there so that a guest that writes faster than the link carries ends
// somewhere; half an hour moves a terabyte at 10 Gbit/s.
struct PolicyLimits {
  Nanoseconds downtime = std::chrono::milliseconds(300);
  std::uint32_t max_rounds = 30;  // with the guest running; at least 1
  Nanoseconds total_time = std::chrono::minutes(30);
  OnTimeout on_timeout = OnTimeout::kCancel;
  LogChoice log = LogChoice::kAuto;
  bool hardware_offered = false;
  // How far vCPUs may be slowed: the share of time they are kept out of the guest, 0 (never) to
  // kMostThrottle percent.
  unsigned max_throttle = 0;
};

// How a round with the guest running went, its closing harvest included.
struct RoundFacts {
  std::uint32_t n = 1;
  DirtyLogMode mode = DirtyLogMode::kWriteProtect;
  std::uint64_t pages_dirty_at_start = 0;  // to be looked at in this round
  std::uint64_t pages_sent = 0;            // with their contents
  std::uint64_t zero_pages = 0;
  std::uint64_t bytes_sent = 0;
  Nanoseconds duration{0};         // from the first CLEAR to the acknowledgement
  Nanoseconds get_time{0};         // of the harvest at its end
  Nanoseconds clear_time{0};       // part of duration
  std::uint64_t dirty_at_end = 0;  // pages the harvest found: what the next round would look at
};

// Measured at the destination and here before the guest is stopped.
struct RehearsalFacts {
  Nanoseconds save{0};
  Nanoseconds transfer{0};
  Nanoseconds restore{0};
};

enum class RoundAction : std::uint8_t {
  kContinue,              // another round, logging as before
  kSwitchToWriteProtect,  // change logging, then another round
  kSwitchToHardware,      // the same
  kThrottle,              // slow the vCPUs to throttle_percent, then another round
  kStopAndCopy,           // pause the guest and send what is left
  kGiveUp,                // a limit is reached: the guest stays
};
[[nodiscard]] std::string_view to_string(RoundAction action);

struct RoundDecision {
  RoundAction action = RoundAction::kContinue;
  Nanoseconds downtime_estimate{0};  // were the guest stopped now
  std::string reason;                // one line
  unsigned throttle_percent = 0;     // for the next round; never less than before
};

// Decides after each round. Whatever the rounds are like, it says kStopAndCopy or kGiveUp after at
// most max_rounds of them, changes the way of logging at most kMaxModeChanges times, and slows
// vCPUs to no more than max_throttle.
class RoundPolicy {
 public:
  explicit RoundPolicy(const PolicyLimits& limits) : limits_(limits) {
    limits_.max_throttle = std::min(limits_.max_throttle, kMostThrottle);
  }

  // How logging starts: hardware for bulk where it is offered and not ruled out.
  [[nodiscard]] DirtyLogMode first_mode() const;
  // elapsed: since the migration began.
  [[nodiscard]] RoundDecision after_round(const RoundFacts& facts, const RehearsalFacts& rehearsal,
                                          Nanoseconds elapsed);

  static constexpr unsigned kMaxModeChanges = 3;

 private:
  // What a stop now would cost, by part.
  struct Estimate {
    Nanoseconds send{0};                      // the pages that are dirty
    Nanoseconds harvest{0};                   // the last GET
    Nanoseconds state{0};                     // save, transfer, restore
    [[nodiscard]] Nanoseconds total() const;  // with a margin
    [[nodiscard]] Nanoseconds without_scan() const;
  };

  void learn(const RoundFacts& facts);
  [[nodiscard]] Estimate estimate(const RoundFacts& facts, const RehearsalFacts& rehearsal) const;
  [[nodiscard]] RoundDecision decide(const RoundFacts& facts, const Estimate& now,
                                     Nanoseconds elapsed);
  [[nodiscard]] RoundDecision at_limit(const Estimate& now, std::string why) const;
  [[nodiscard]] RoundDecision when_near(const RoundFacts& facts, const Estimate& now);
  [[nodiscard]] RoundDecision when_stalled(const RoundFacts& facts, const Estimate& now);
  [[nodiscard]] RoundDecision throttle(const Estimate& now);
  [[nodiscard]] bool may_change(DirtyLogMode to) const;
  [[nodiscard]] RoundDecision change(DirtyLogMode to, const Estimate& now, std::string why);

  PolicyLimits limits_;
  double page_seconds_ = 0;  // to send a page, all told; 0 while nothing was sent
  unsigned mode_changes_ = 0;
  unsigned throttle_ = 0;  // percent
  unsigned polished_ = 0;  // rounds that were sent though the guest could have been stopped
  bool stalled_ = false;   // the last round left about as many pages as one before it
  // Pages that a round has left, since logging or throttling changed.
  std::optional<std::uint64_t> fewest_;
  std::optional<std::uint64_t> last_left_;  // pages the last round left
};

}  // namespace vmm::migration
