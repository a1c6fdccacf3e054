#include "migration/policy.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

namespace vmm::migration {
namespace {

using namespace std::chrono_literals;
constexpr auto kHw = DirtyLogMode::kHardware;
constexpr auto kWp = DirtyLogMode::kWriteProtect;

Nanoseconds seconds(double value) {
  return Nanoseconds(static_cast<Nanoseconds::rep>(value * 1e9));
}

// A guest and a link, as far as the policy can tell: the guest writes evenly over a working set,
// write-protection slows it down, a scan of the log costs by the page of RAM.
struct World {
  double ram_pages = 131'072;  // 512 MiB, half of it zero
  double writes_per_s = 0;     // to pages at random in the working set, in hardware mode
  double working_set = 0;      // pages
  double link = 1024.0 * 1048576;
  double write_protect_slowdown = 10;
  double scan_s_per_page = 66e-9;
  double fixed_s = 300e-6;  // round trip and what a round costs anyway
  RehearsalFacts rehearsal{2ms, 1ms, 3ms};

  [[nodiscard]] double dirtied(double time, DirtyLogMode mode, unsigned throttle) const {
    if (working_set == 0) return 0;
    const double runs = time * (100 - throttle) / 100;
    const double writes = writes_per_s * runs / (mode == kWp ? write_protect_slowdown : 1);
    return working_set * (1 - std::exp(-writes / working_set));
  }
};

struct Run {
  RoundAction end = RoundAction::kContinue;
  std::vector<DirtyLogMode> modes;
  std::vector<unsigned> throttles;  // percent, by round
  Nanoseconds elapsed{0};
  double downtime_s = 0;
  unsigned switches = 0;
  Nanoseconds estimate{0};
};

Run simulate(const World& world, const PolicyLimits& limits) {
  RoundPolicy policy(limits);
  Run run;
  auto mode = policy.first_mode();
  unsigned throttle = 0;
  double dirty = world.ram_pages;
  // A policy that never ends shows as a run with more rounds than any limit used here.
  for (std::uint32_t n = 1; n <= 1000; ++n) {
    const double sent = n == 1 ? dirty / 2 : dirty;
    const double time = sent * 4096 / world.link + world.fixed_s;
    const double get = mode == kHw ? world.ram_pages * world.scan_s_per_page : 20e-6;
    dirty = world.dirtied(time + get, mode, throttle);
    RoundFacts facts;
    facts.n = n;
    facts.mode = mode;
    facts.pages_sent = static_cast<std::uint64_t>(sent);
    facts.zero_pages = n == 1 ? static_cast<std::uint64_t>(sent) : 0;
    facts.bytes_sent = facts.pages_sent * 4096;
    facts.duration = seconds(time);
    facts.get_time = seconds(get);
    facts.dirty_at_end = static_cast<std::uint64_t>(dirty);
    run.modes.push_back(mode);
    run.throttles.push_back(throttle);
    run.elapsed += seconds(time + get);
    const auto decision = policy.after_round(facts, world.rehearsal, run.elapsed);
    EXPECT_FALSE(decision.reason.empty());
    run.estimate = decision.downtime_estimate;
    EXPECT_EQ(decision.throttle_percent > throttle, decision.action == RoundAction::kThrottle);
    EXPECT_GE(decision.throttle_percent, throttle);
    throttle = decision.throttle_percent;
    switch (decision.action) {
      case RoundAction::kContinue:
      case RoundAction::kThrottle:
        break;
      case RoundAction::kSwitchToHardware:
        EXPECT_EQ(mode, kWp);
        mode = kHw;
        ++run.switches;
        break;
      case RoundAction::kSwitchToWriteProtect:
        EXPECT_EQ(mode, kHw);
        mode = kWp;
        ++run.switches;
        break;
      case RoundAction::kStopAndCopy:
      case RoundAction::kGiveUp:
        run.end = decision.action;
        run.downtime_s =
            get + dirty * 4096 / world.link + world.fixed_s +
            std::chrono::duration<double>(world.rehearsal.save + world.rehearsal.transfer +
                                          world.rehearsal.restore)
                .count();
        return run;
    }
  }
  return run;
}

PolicyLimits with_hardware() {
  PolicyLimits limits;
  limits.hardware_offered = true;
  return limits;
}

World idle() {
  World world;
  world.writes_per_s = 200;
  world.working_set = 500;
  return world;
}
World paced() {  // 64 MiB at 8000 pages/s
  World world;
  world.writes_per_s = 8000;
  world.working_set = 16'384;
  return world;
}
World hot() {  // 128 MiB as fast as it can
  World world;
  world.writes_per_s = 3e6;
  world.working_set = 32'768;
  return world;
}
World faster_than_link() {
  World world = hot();
  world.link = 10.0 * 1048576;
  world.write_protect_slowdown = 2;
  return world;
}

TEST(PolicyTest, AnIdleGuestMovesInTwoRoundsTheLastOneWriteProtected) {
  const auto run = simulate(idle(), with_hardware());
  EXPECT_EQ(run.end, RoundAction::kStopAndCopy);
  EXPECT_EQ(run.modes, (std::vector{kHw, kWp}));
  EXPECT_LT(run.downtime_s, 0.010);
  EXPECT_LE(simulate(idle(), {}).modes.size(), 2U);
}

TEST(PolicyTest, AGuestThatWritesAtAPaceMovesInAFewRounds) {
  const auto run = simulate(paced(), with_hardware());
  EXPECT_EQ(run.end, RoundAction::kStopAndCopy);
  EXPECT_LE(run.modes.size(), 3U);
  EXPECT_EQ(run.modes.back(), kWp);
  EXPECT_LT(run.downtime_s, 0.015);
  EXPECT_LE(simulate(paced(), {}).modes.size(), 3U);
}

TEST(PolicyTest, AHotGuestOnAFastLinkMovesWithinItsLimit) {
  for (const auto& limits : {with_hardware(), PolicyLimits{}}) {
    const auto run = simulate(hot(), limits);
    EXPECT_EQ(run.end, RoundAction::kStopAndCopy);
    EXPECT_LE(run.modes.size(), 5U);
    EXPECT_EQ(run.modes.back(), kWp);
    EXPECT_LT(run.downtime_s, 0.3);
  }
}

TEST(PolicyTest, AGuestFasterThanTheLinkEndsAtTheRoundLimitAsAsked) {
  for (const auto on_timeout : {OnTimeout::kCancel, OnTimeout::kStopAndCopy}) {
    auto limits = with_hardware();
    limits.on_timeout = on_timeout;
    const auto run = simulate(faster_than_link(), limits);
    EXPECT_EQ(run.end,
              on_timeout == OnTimeout::kCancel ? RoundAction::kGiveUp : RoundAction::kStopAndCopy);
    EXPECT_EQ(run.modes.size(), limits.max_rounds);
    // Write-protection was tried and given up, but for a last round that ends with a stop.
    const bool stops = on_timeout == OnTimeout::kStopAndCopy;
    EXPECT_EQ(run.switches, stops ? 3U : 2U);
    EXPECT_LE(std::ranges::count(run.modes, kWp), stops ? 4 : 3);
    EXPECT_EQ(run.modes.back(), stops ? kWp : kHw);
  }
}

TEST(PolicyTest, TheTimeLimitEndsItToo) {
  auto limits = with_hardware();
  limits.total_time = 60s;
  const auto run = simulate(faster_than_link(), limits);
  EXPECT_EQ(run.end, RoundAction::kGiveUp);
  EXPECT_LT(run.modes.size(), limits.max_rounds);
  EXPECT_LT(run.elapsed, 90s);
}

TEST(PolicyTest, WriteProtectionSlowsAGuestThatHardwareLoggingCannotOvertake) {
  auto world = faster_than_link();
  world.write_protect_slowdown = 5000;
  const auto run = simulate(world, with_hardware());
  EXPECT_EQ(run.end, RoundAction::kStopAndCopy);
  EXPECT_EQ(run.modes.front(), kHw);
  EXPECT_EQ(run.modes.back(), kWp);
  EXPECT_LT(run.downtime_s, 0.3);
}

TEST(PolicyTest, TheLogModeAskedForIsUsedThroughout) {
  for (const auto& [choice, mode] :
       {std::pair(LogChoice::kHardware, kHw), std::pair(LogChoice::kWriteProtect, kWp)}) {
    auto limits = with_hardware();
    limits.log = choice;
    for (const World& world : {idle(), paced(), hot(), faster_than_link()}) {
      const auto run = simulate(world, limits);
      EXPECT_EQ(std::ranges::count(run.modes, mode), std::ssize(run.modes));
      EXPECT_EQ(run.switches, 0U);
    }
  }
  PolicyLimits nowhere;
  nowhere.log = LogChoice::kHardware;
  EXPECT_EQ(RoundPolicy(nowhere).first_mode(), kWp);
}

TEST(PolicyTest, AMachineWhoseStateAloneTakesTooLongEndsEarly) {
  auto world = paced();
  world.rehearsal.restore = 2s;
  const auto run = simulate(world, with_hardware());
  EXPECT_EQ(run.end, RoundAction::kGiveUp);
  EXPECT_LT(run.modes.size(), 15U);
}

TEST(PolicyTest, APageThatTheGuestCouldStillRunForIsNotSentInItsDowntime) {
  RoundPolicy policy({});
  const RehearsalFacts rehearsal{3ms, 1ms, 4ms};
  RoundFacts facts;
  const auto after = [&](std::uint64_t sent, std::uint64_t left) {
    facts.pages_sent = sent;
    facts.duration = sent * 4us;
    facts.dirty_at_end = left;
    const auto decision = policy.after_round(facts, rehearsal, 1s).action;
    ++facts.n;
    return decision;
  };
  EXPECT_EQ(after(40'000, 10'000), RoundAction::kContinue);  // 40 ms
  EXPECT_EQ(after(10'000, 700), RoundAction::kContinue);     // 3 ms, where the state takes 8
  EXPECT_EQ(after(700, 100), RoundAction::kStopAndCopy);     // 0.4 ms
}

TEST(PolicyTest, RoundsThatNoLongerHelpAreNotSentBelowTheLimit) {
  RoundPolicy policy({});
  RoundFacts facts;
  facts.pages_sent = 40'000;
  facts.duration = 160ms;
  facts.dirty_at_end = 1000;  // 4 ms
  EXPECT_EQ(policy.after_round(facts, {}, 1s).action, RoundAction::kContinue);
  facts = {.n = 2, .pages_sent = 1000, .duration = 4ms, .dirty_at_end = 900};
  EXPECT_EQ(policy.after_round(facts, {}, 1s).action, RoundAction::kStopAndCopy);
}

TEST(PolicyTest, TheEstimateCountsHarvestPagesAndRehearsal) {
  PolicyLimits limits = with_hardware();
  limits.log = LogChoice::kHardware;
  RoundFacts facts;
  facts.mode = kHw;
  facts.pages_sent = 100'000;
  facts.duration = 1s;
  const auto estimate = [&](const RehearsalFacts& rehearsal) {
    return RoundPolicy(limits).after_round(facts, rehearsal, 1s).downtime_estimate;
  };
  const auto nothing = estimate({});
  EXPECT_GT(nothing, 0ms);  // the margin
  facts.dirty_at_end = 10'000;
  EXPECT_GE(estimate({}), nothing + 100ms);
  facts.dirty_at_end = 0;
  facts.get_time = 20ms;
  EXPECT_GE(estimate({}), nothing + 20ms);
  EXPECT_GE(estimate({1ms, 2ms, 4ms}), nothing + 27ms);
}

// --- Throttling ---

using Throttles = std::vector<unsigned>;

// The different values, in order.
Throttles steps(const Run& run) {
  Throttles found = run.throttles;
  found.erase(std::ranges::unique(found).begin(), found.end());
  return found;
}

PolicyLimits with_throttle(unsigned most) {
  auto limits = with_hardware();
  limits.max_throttle = most;
  return limits;
}

TEST(PolicyTest, NobodyIsSlowedUnlessAskedTo) {
  for (const World& world : {idle(), paced(), hot(), faster_than_link()}) {
    EXPECT_EQ(steps(simulate(world, with_hardware())), (Throttles{0}));
  }
}

TEST(PolicyTest, AGuestThatConvergesIsNotSlowedThoughItMayBe) {
  for (const World& world : {idle(), paced(), hot()}) {
    const auto run = simulate(world, with_throttle(99));
    EXPECT_EQ(run.end, RoundAction::kStopAndCopy);
    EXPECT_EQ(steps(run), (Throttles{0}));
  }
}

TEST(PolicyTest, AGuestFasterThanTheLinkIsSlowedStepByStepUntilItMoves) {
  auto world = faster_than_link();
  world.writes_per_s = 4500;  // the link carries 2560 pages/s; write-protection alone is not enough
  world.write_protect_slowdown = 1.05;
  ASSERT_EQ(simulate(world, with_hardware()).end, RoundAction::kGiveUp);
  const auto run = simulate(world, with_throttle(99));
  EXPECT_EQ(run.end, RoundAction::kStopAndCopy);
  // Write-protection first, as it slows writers alone; then no step more than it takes.
  EXPECT_EQ(steps(run), (Throttles{0, 20, 40, 60}));
  EXPECT_EQ(run.throttles[1], 0U);
  EXPECT_EQ(run.modes.back(), kWp);
  EXPECT_EQ(run.switches, 1U);
  EXPECT_LT(run.downtime_s, 0.3);
}

TEST(PolicyTest, ThrottlingEndsAtItsMaximum) {
  struct Case {
    unsigned most;
    Throttles steps;
  };
  for (const auto& [most, wanted] :
       {Case{1, {0, 1}}, Case{20, {0, 20}}, Case{50, {0, 20, 40, 50}},
        Case{99, {0, 20, 40, 60, 80, 90, 95, 99}}, Case{1000, {0, 20, 40, 60, 80, 90, 95, 99}}}) {
    // Far more than any throttling helps against.
    const auto run = simulate(faster_than_link(), with_throttle(most));
    EXPECT_EQ(run.end, RoundAction::kGiveUp);
    EXPECT_EQ(steps(run), wanted) << most;
    EXPECT_EQ(run.switches, 1U) << "its speed is not given back at the maximum either";
  }
}

TEST(PolicyTest, ThrottlingWorksInTheLogModeAskedFor) {
  for (const auto choice : {LogChoice::kHardware, LogChoice::kWriteProtect}) {
    auto limits = with_throttle(40);
    limits.log = choice;
    const auto run = simulate(faster_than_link(), limits);
    EXPECT_EQ(steps(run), (Throttles{0, 20, 40}));
    EXPECT_EQ(run.switches, 0U);
  }
}

TEST(PolicyTest, AMachineWhoseStateAloneTakesTooLongIsNotSlowed) {
  auto world = faster_than_link();
  world.rehearsal.restore = 2s;
  const auto run = simulate(world, with_throttle(99));
  EXPECT_EQ(run.end, RoundAction::kGiveUp);
  EXPECT_EQ(steps(run), (Throttles{0}));
}

// Each step needs a round at the step before it that left no fewer pages.
TEST(PolicyTest, ThrottlingRisesByTheRoundsThatDidNotHelp) {
  struct Round {
    std::uint64_t left;
    unsigned throttle;  // afterwards
  };
  PolicyLimits limits = with_throttle(99);
  limits.hardware_offered = false;
  RoundPolicy policy(limits);
  RoundFacts facts;
  facts.pages_sent = 100'000;
  facts.duration = 10s;
  constexpr Round kRounds[] = {
      {100'000, 0},   // the first one tells nothing yet
      {100'000, 20},  // as many
      {89'000, 20},   // fewer
      {80'000, 20},   // fewer still
      {79'000, 40},   // not by enough
      {90'000, 60},   // more
      {80'000, 60},   // fewer than when it rose, that is what counts
      {70'000, 60},  {70'000, 80}, {69'000, 90},
      {68'000, 95},  {67'000, 99}, {67'000, 99},  // there is no further step
  };
  for (const auto& [left, throttle] : kRounds) {
    SCOPED_TRACE(facts.n);
    facts.dirty_at_end = left;
    const auto decision = policy.after_round(facts, {}, 1s);
    EXPECT_EQ(decision.throttle_percent, throttle) << decision.reason;
    ++facts.n;
  }
}

// Whatever guest, link and limits are like, it ends, within its limits.
TEST(PolicyTest, EveryMigrationEnds) {
  for (const double writes : {0.0, 1e2, 1e4, 1e6, 1e9}) {
    for (const double working_set : {1.0, 1e3, 1e5, 1e7}) {
      for (const double link : {1e5, 1e8, 1e10}) {
        for (const double slowdown : {1.0, 30.0, 1e6}) {
          for (const unsigned most : {0, 1, 30, 60, 99}) {
            const bool hardware = most % 2 == 0;
            World world;
            world.writes_per_s = writes;
            world.working_set = working_set;
            world.link = link;
            world.write_protect_slowdown = slowdown;
            PolicyLimits limits;
            limits.hardware_offered = hardware;
            limits.max_throttle = most;
            const auto run = simulate(world, limits);
            ASSERT_NE(run.end, RoundAction::kContinue);
            ASSERT_LE(run.modes.size(), limits.max_rounds);
            ASSERT_LE(run.switches, RoundPolicy::kMaxModeChanges);
            ASSERT_LE(run.throttles.back(), most);
            if (run.end == RoundAction::kStopAndCopy) {
              ASSERT_LE(run.estimate, limits.downtime);
            }
          }
        }
      }
    }
  }
}

TEST(PolicyTest, FactsOfNoSenseAreSurvived) {
  RoundPolicy policy(with_hardware());
  RoundFacts facts;
  facts.dirty_at_end = ~std::uint64_t{0};
  facts.pages_sent = 1;
  facts.duration = 10h;
  EXPECT_GE(policy.after_round(facts, {}, 1s).downtime_estimate, 1h);
  EXPECT_EQ(RoundPolicy({}).after_round(RoundFacts{}, {}, 0s).action, RoundAction::kStopAndCopy);
}

}  // namespace
}  // namespace vmm::migration
