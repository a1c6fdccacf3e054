#include "migration/handover.h"

#include <gtest/gtest.h>

#include <array>
#include <map>
#include <utility>

namespace vmm::migration {
namespace {

using S = SourceState;
using SE = SourceEvent;
using D = DestinationState;
using DE = DestinationEvent;

template <typename E>
constexpr E nth(int n) {
  return static_cast<E>(n);
}
constexpr int kSourceStates = static_cast<int>(S::kFailed) + 1;
constexpr int kSourceEvents = static_cast<int>(SE::kResolvedDiscard) + 1;
constexpr int kDestinationStates = static_cast<int>(D::kDiscarded) + 1;
constexpr int kDestinationEvents = static_cast<int>(DE::kFailure) + 1;

TEST(HandoverTest, SourceTakesExactlyTheTransitionsOfTheProtocol) {
  constexpr auto kNone = std::optional<S>{};
  constexpr std::optional<S> kFailed = S::kFailed;
  // Columns: connected, accepted, guest paused, peer prepared, disks released, committing,
  // peer started, peer discarded, failure, resolved: resume, resolved: discard.
  const std::map<S, std::array<std::optional<S>, kSourceEvents>> table{
      {S::kConnecting,
       {S::kPreflight, kNone, kNone, kNone, kNone, kNone, kNone, kNone, kFailed, kNone, kNone}},
      {S::kPreflight,
       {kNone, S::kPrecopy, kNone, kNone, kNone, kNone, kNone, kFailed, kFailed, kNone, kNone}},
      {S::kPrecopy,
       {kNone, kNone, S::kStopped, kNone, kNone, kNone, kNone, kFailed, kFailed, kNone, kNone}},
      {S::kStopped,
       {kNone, kNone, kNone, S::kPrepared, kNone, kNone, kNone, kFailed, kFailed, kNone, kNone}},
      {S::kPrepared,
       {kNone, kNone, kNone, kNone, S::kReleased, kNone, kNone, kFailed, kFailed, kNone, kNone}},
      {S::kReleased,
       {kNone, kNone, kNone, kNone, kNone, S::kCommitted, kNone, kFailed, kFailed, kNone, kNone}},
      {S::kCommitted,
       {kNone, kNone, kNone, kNone, kNone, kNone, S::kDone, kFailed, S::kInDoubt, kNone, kNone}},
      {S::kInDoubt,
       {kNone, kNone, kNone, kNone, kNone, kNone, S::kDone, kFailed, S::kInDoubt, kFailed,
        S::kDone}},
      {S::kDone, {}},
      {S::kFailed, {}},
  };
  for (int state = 0; state < kSourceStates; ++state) {
    for (int event = 0; event < kSourceEvents; ++event) {
      EXPECT_EQ(next(nth<S>(state), nth<SE>(event)),
                table.at(nth<S>(state))[static_cast<std::size_t>(event)])
          << to_string(nth<S>(state)) << ", " << to_string(nth<SE>(event));
    }
  }
}

TEST(HandoverTest, DestinationTakesExactlyTheTransitionsOfTheProtocol) {
  constexpr auto kNone = std::optional<D>{};
  constexpr std::optional<D> kDiscarded = D::kDiscarded;
  // Columns: manifest accepted, prepared, commit received, start recorded, failure.
  const std::map<D, std::array<std::optional<D>, kDestinationEvents>> table{
      {D::kListening, {D::kReceiving, kNone, kNone, kNone, kDiscarded}},
      {D::kReceiving, {kNone, D::kPrepared, kNone, kNone, kDiscarded}},
      {D::kPrepared, {kNone, kNone, D::kStarting, kNone, kDiscarded}},
      {D::kStarting, {kNone, kNone, kNone, D::kRunning, kDiscarded}},
      {D::kRunning, {}},
      {D::kDiscarded, {}},
  };
  for (int state = 0; state < kDestinationStates; ++state) {
    for (int event = 0; event < kDestinationEvents; ++event) {
      EXPECT_EQ(next(nth<D>(state), nth<DE>(event)),
                table.at(nth<D>(state))[static_cast<std::size_t>(event)])
          << to_string(nth<D>(state)) << ", " << to_string(nth<DE>(event));
    }
  }
}

TEST(HandoverTest, CancelIsPossibleUntilTheCommitAndTheGuestRunsOnlyWhereItIsOurs) {
  for (int i = 0; i < kSourceStates; ++i) {
    const auto state = nth<S>(i);
    EXPECT_EQ(may_cancel(state), state < S::kCommitted) << to_string(state);
    EXPECT_EQ(may_run(state), state < S::kStopped || state == S::kFailed) << to_string(state);
  }
  for (int i = 0; i < kDestinationStates; ++i) {
    EXPECT_EQ(may_run(nth<D>(i)), nth<D>(i) == D::kRunning) << to_string(nth<D>(i));
  }
}

template <typename E>
void expect_own_names(int count) {
  std::map<std::string_view, int> seen;
  for (int i = 0; i < count; ++i) ++seen[to_string(nth<E>(i))];
  EXPECT_EQ(seen.size(), static_cast<std::size_t>(count));
  EXPECT_FALSE(seen.contains("unknown"));
}

TEST(HandoverTest, StatesAndEventsHaveNamesOfTheirOwn) {
  expect_own_names<S>(kSourceStates);
  expect_own_names<SE>(kSourceEvents);
  expect_own_names<D>(kDestinationStates);
  expect_own_names<DE>(kDestinationEvents);
}

TEST(HandoverTest, CountersAreNotReadBehindTheCommitNorMoreThanADayBefore) {
  using namespace std::chrono_literals;
  const std::chrono::steady_clock::time_point begun{1h};
  const auto age = [&](std::chrono::nanoseconds saved, std::chrono::nanoseconds received) {
    return begun + received - saved_at({to_ns(saved)}, begun, begun + received);
  };
  EXPECT_EQ(age(500ms, 507ms), 7ms);
  EXPECT_EQ(age(508ms, 507ms), 0ms) << "the source's idea of this clock is 1 ms off, or more";
  EXPECT_EQ(age(kMaxSession, 1s), 0ms);
  EXPECT_EQ(age(1h, 25h), 24h);
  EXPECT_EQ(age(1h - 1ns, 25h), 24h);
  EXPECT_EQ(age(0s, kMaxSession), 24h);
}

}  // namespace
}  // namespace vmm::migration
