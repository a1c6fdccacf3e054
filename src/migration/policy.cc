#include "migration/policy.h"

#include <fmt/core.h>

#include <algorithm>
#include <utility>

namespace vmm::migration {
namespace {

using namespace std::chrono_literals;
using Seconds = std::chrono::duration<double>;

// Measurements of one round say little about the next few milliseconds.
constexpr Nanoseconds kMargin = 2ms;
constexpr int kMarginDivisor = 10;
// A round of fewer pages measures the round trip rather than the rate.
constexpr std::uint64_t kMeasurablePages = 256;
// A zero page is read, not sent: its part of a page's cost.
constexpr double kZeroPageShare = 0.125;
// A scan this short is not worth a round to be rid of it.
constexpr Nanoseconds kCheapScan = 1ms;
// A round has been of use when it leaves less than this part of the fewest pages so far.
constexpr double kProgress = 0.9;
// Below the downtime limit rounds go on while each leaves at most this part of the pages, and
// sending them takes noticeable time: the guest runs in a round, and stands in the downtime.
constexpr double kPolishProgress = 0.7;
constexpr Nanoseconds kNoticeable = 1ms;
constexpr unsigned kMaxPolish = 3;
// In percent: the first is hardly felt, the last is for a guest that writes a hundred times as fast
// as the link carries.
constexpr unsigned kThrottleSteps[] = {20, 40, 60, 80, 90, 95, kMostThrottle};

double milliseconds(Nanoseconds time) {
  return std::chrono::duration<double, std::milli>(time).count();
}

}  // namespace

std::string_view to_string(RoundAction action) {
  switch (action) {
    case RoundAction::kContinue:
      return "continue";
    case RoundAction::kSwitchToWriteProtect:
      return "switch to write-protect";
    case RoundAction::kSwitchToHardware:
      return "switch to hardware";
    case RoundAction::kThrottle:
      return "throttle";
    case RoundAction::kStopAndCopy:
      return "stop and copy";
    case RoundAction::kGiveUp:
      return "give up";
  }
  return "unknown";
}

Nanoseconds RoundPolicy::Estimate::total() const {
  const auto sum = send + harvest + state;
  return sum + sum / kMarginDivisor + kMargin;
}

Nanoseconds RoundPolicy::Estimate::without_scan() const {
  return Estimate{send, Nanoseconds{0}, state}.total();
}

DirtyLogMode RoundPolicy::first_mode() const {
  return limits_.hardware_offered && limits_.log != LogChoice::kWriteProtect
             ? DirtyLogMode::kHardware
             : DirtyLogMode::kWriteProtect;
}

RoundDecision RoundPolicy::after_round(const RoundFacts& facts, const RehearsalFacts& rehearsal,
                                       Nanoseconds elapsed) {
  learn(facts);
  const auto now = estimate(facts, rehearsal);
  // Told by pages: times become shorter, too, when the machine has less else to do.
  const bool fewer = !fewest_ || static_cast<double>(facts.dirty_at_end) <
                                     kProgress * static_cast<double>(*fewest_);
  stalled_ = !fewer;
  auto decision = decide(facts, now, elapsed);
  decision.throttle_percent = throttle_;
  fewest_ = std::min(fewest_.value_or(facts.dirty_at_end), facts.dirty_at_end);
  last_left_ = facts.dirty_at_end;
  return decision;
}

void RoundPolicy::learn(const RoundFacts& facts) {
  const double work = static_cast<double>(facts.pages_sent) +
                      kZeroPageShare * static_cast<double>(facts.zero_pages);
  if (work < 1) return;
  const double measured = Seconds(facts.duration).count() / work;
  if (page_seconds_ == 0) {
    page_seconds_ = measured;
  } else if (facts.pages_sent >= kMeasurablePages) {
    page_seconds_ = (page_seconds_ + measured) / 2;
  }
}

RoundPolicy::Estimate RoundPolicy::estimate(const RoundFacts& facts,
                                            const RehearsalFacts& rehearsal) const {
  // More than an hour is not a downtime; and it must not overflow.
  constexpr Seconds kMost = 1h;
  const Seconds send(static_cast<double>(facts.dirty_at_end) * page_seconds_);
  return {.send = std::chrono::duration_cast<Nanoseconds>(std::min(send, kMost)),
          .harvest = facts.get_time,
          .state = rehearsal.save + rehearsal.transfer + rehearsal.restore};
}

RoundDecision RoundPolicy::decide(const RoundFacts& facts, const Estimate& now,
                                  Nanoseconds elapsed) {
  const bool last_round = facts.n >= limits_.max_rounds || elapsed >= limits_.total_time;
  if (last_round) {
    if (now.total() <= limits_.downtime) {
      return {RoundAction::kStopAndCopy, now.total(), "within the downtime limit"};
    }
    return at_limit(now, facts.n >= limits_.max_rounds
                             ? fmt::format("round limit of {} reached", limits_.max_rounds)
                             : fmt::format("time limit of {:.0f} s reached",
                                           Seconds(limits_.total_time).count()));
  }
  const bool scans = facts.mode == DirtyLogMode::kHardware;
  const bool sheds_scan = scans && may_change(DirtyLogMode::kWriteProtect);
  if ((sheds_scan ? now.without_scan() : now.total()) <= limits_.downtime) {
    return when_near(facts, now);
  }
  return when_stalled(facts, now);
}

RoundDecision RoundPolicy::at_limit(const Estimate& now, std::string why) const {
  why += fmt::format(", the downtime would be {:.1f} ms where {:.1f} ms are allowed",
                     milliseconds(now.total()), milliseconds(limits_.downtime));
  return {limits_.on_timeout == OnTimeout::kStopAndCopy ? RoundAction::kStopAndCopy
                                                        : RoundAction::kGiveUp,
          now.total(), std::move(why)};
}

RoundDecision RoundPolicy::when_near(const RoundFacts& facts, const Estimate& now) {
  const bool nothing_left = facts.dirty_at_end == 0 && now.harvest <= kCheapScan;
  if (facts.mode == DirtyLogMode::kHardware && may_change(DirtyLogMode::kWriteProtect) &&
      !nothing_left) {
    return change(DirtyLogMode::kWriteProtect, now,
                  "the stop is near, and its harvest needs no scan then");
  }
  const bool sinking = !last_left_ || static_cast<double>(facts.dirty_at_end) <
                                          kPolishProgress * static_cast<double>(*last_left_);
  if (sinking && polished_ < kMaxPolish && now.send > kNoticeable) {
    ++polished_;
    return {RoundAction::kContinue, now.total(), "another round makes the downtime shorter still"};
  }
  return {RoundAction::kStopAndCopy, now.total(), "within the downtime limit"};
}

RoundDecision RoundPolicy::when_stalled(const RoundFacts& facts, const Estimate& now) {
  if (!stalled_) {
    return {RoundAction::kContinue, now.total(),
            fmt::format("{} pages left, {:.1f} ms of downtime", facts.dirty_at_end,
                        milliseconds(now.total()))};
  }
  const Estimate rest{Nanoseconds{0}, now.harvest, now.state};
  const bool hardware = facts.mode == DirtyLogMode::kHardware;
  // Once: where it did not help, the guest keeps its speed until it is about to be stopped.
  const bool stop_is_next =
      limits_.on_timeout == OnTimeout::kStopAndCopy && facts.n + 1 == limits_.max_rounds;
  if (hardware && (mode_changes_ == 0 || stop_is_next) && may_change(DirtyLogMode::kWriteProtect)) {
    return change(DirtyLogMode::kWriteProtect, now, "the guest writes as fast as pages are sent");
  }
  if (rest.total() > limits_.downtime) {
    return at_limit(now, "no round can help: the machine's state alone takes too long");
  }
  if (throttle_ < limits_.max_throttle) return throttle(now);
  // A guest that may be slowed is not given its speed back before it has moved.
  if (!hardware && limits_.max_throttle == 0 && may_change(DirtyLogMode::kHardware)) {
    return change(DirtyLogMode::kHardware, now,
                  "write-protection did not help, so the guest gets its speed back");
  }
  return {RoundAction::kContinue, now.total(), "the guest writes as fast as pages are sent"};
}

RoundDecision RoundPolicy::throttle(const Estimate& now) {
  const auto* step = std::ranges::upper_bound(kThrottleSteps, throttle_);
  throttle_ = std::min(*step, limits_.max_throttle);
  fewest_.reset();
  return {RoundAction::kThrottle, now.total(),
          fmt::format("the guest writes as fast as pages are sent: vCPUs are throttled by {} %",
                      throttle_)};
}

bool RoundPolicy::may_change(DirtyLogMode to) const {
  if (limits_.log != LogChoice::kAuto || !limits_.hardware_offered) return false;
  // The last change is one to write-protect: that is where a stop is cheapest.
  return mode_changes_ < (to == DirtyLogMode::kHardware ? kMaxModeChanges - 1 : kMaxModeChanges);
}

RoundDecision RoundPolicy::change(DirtyLogMode to, const Estimate& now, std::string why) {
  ++mode_changes_;
  fewest_.reset();
  return {to == DirtyLogMode::kHardware ? RoundAction::kSwitchToHardware
                                        : RoundAction::kSwitchToWriteProtect,
          now.total(), std::move(why)};
}

}  // namespace vmm::migration
