#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "migration/handover.h"

// Both machines of the handover, joined by a link that loses, delays and reorders messages, with
// processes that may be killed between any two steps and a decision record that survives them.
// Everything that can happen is visited.
namespace vmm::migration {
namespace {

using S = SourceState;
using SE = SourceEvent;
using D = DestinationState;
using DE = DestinationEvent;

enum class Record : std::uint8_t { kNone, kStarted, kDiscarded };

// Bits of World::in_flight.
constexpr unsigned kManifest = 1U << 0U;
constexpr unsigned kAccept = 1U << 1U;
constexpr unsigned kFinalState = 1U << 2U;
constexpr unsigned kPrepared = 1U << 3U;
constexpr unsigned kCommit = 1U << 4U;
constexpr unsigned kStarted = 1U << 5U;  // from the destination, or the answer to a query
constexpr unsigned kDiscarded = 1U << 6U;
constexpr unsigned kMessages = 7;

struct World {
  S source = S::kConnecting;
  D destination = D::kListening;
  bool source_lives = true;
  bool destination_lives = true;
  Record record = Record::kNone;
  unsigned in_flight = 0;

  // Numbers worlds without gaps that matter.
  [[nodiscard]] std::size_t number() const {
    std::size_t n = static_cast<std::size_t>(source);
    n = n * 6 + static_cast<std::size_t>(destination);
    n = n * 3 + static_cast<std::size_t>(record);
    n = n * 4 + (source_lives ? 2U : 0U) + (destination_lives ? 1U : 0U);
    return (n << kMessages) + in_flight;
  }
  static constexpr std::size_t kCount = (10U * 6U * 3U * 4U) << kMessages;

  [[nodiscard]] bool source_runs() const { return source_lives && may_run(source); }
  [[nodiscard]] bool destination_runs() const { return destination_lives && may_run(destination); }
  [[nodiscard]] bool nobody_was_killed() const { return source_lives && destination_lives; }
};

enum class Operator : std::uint8_t { kAbsent, kPresent };

// What may happen next in a world.
class Steps {
 public:
  Steps(const World& world, Operator person) : world_(world) {
    kill_and_lose();
    if (world.source_lives) source_acts();
    if (world.destination_lives) destination_acts();
    answer_queries();
    if (person == Operator::kPresent) operator_decides();
  }
  [[nodiscard]] const std::vector<World>& worlds() const { return worlds_; }

 private:
  void add(const World& world) { worlds_.push_back(world); }

  void source_event(SE event, unsigned consumes = 0, unsigned sends = 0) {
    if ((world_.in_flight & consumes) != consumes) return;
    const auto state = next(world_.source, event);
    if (!state) return;
    World after = world_;
    after.source = *state;
    after.in_flight = (after.in_flight & ~consumes) | sends;
    add(after);
  }
  void destination_event(DE event, unsigned consumes = 0, unsigned sends = 0) {
    if ((world_.in_flight & consumes) != consumes) return;
    const auto state = next(world_.destination, event);
    if (!state) return;
    World after = world_;
    after.destination = *state;
    after.in_flight = (after.in_flight & ~consumes) | sends;
    add(after);
  }

  void kill_and_lose() {
    World after = world_;
    after.source_lives = false;
    add(after);
    after = world_;
    after.destination_lives = false;
    add(after);
    for (unsigned bit = 0; bit < kMessages; ++bit) {
      after = world_;
      after.in_flight &= ~(1U << bit);
      add(after);
    }
  }

  void source_acts() {
    source_event(SE::kConnected, 0, kManifest);
    source_event(SE::kAccepted, kAccept);
    source_event(SE::kGuestPaused, 0, kFinalState);
    source_event(SE::kPeerPrepared, kPrepared);
    source_event(SE::kDisksReleased);
    // The state is left before the message may be on its way, and the link may break in between.
    source_event(SE::kCommitting, 0, kCommit);
    source_event(SE::kCommitting);
    source_event(SE::kPeerStarted, kStarted);
    source_event(SE::kPeerDiscarded, kDiscarded);
    source_event(SE::kFailure);
  }

  void destination_acts() {
    destination_event(DE::kManifestAccepted, kManifest, kAccept);
    destination_event(DE::kPrepared, kFinalState, kPrepared);
    destination_event(DE::kCommitReceived, kCommit);
    if (world_.destination == D::kStarting) record_start();
    destination_event(DE::kFailure, 0, kDiscarded);
    destination_event(DE::kFailure);
  }

  // First writer wins. Whoever has written "started" runs the guest, unless it is killed in
  // between.
  void record_start() {
    if (world_.record == Record::kDiscarded) return destination_event(DE::kFailure, 0, kDiscarded);
    const auto state = next(world_.destination, DE::kRecordedStart);
    if (!state) return;
    World after = world_;
    after.record = Record::kStarted;
    after.destination_lives = false;
    add(after);
    after.destination_lives = true;
    after.destination = *state;
    add(after);
    after.in_flight |= kStarted;
    add(after);
  }

  // Whoever listens at the destination answers from the record, and makes one where there is none.
  void answer_queries() {
    if (!world_.source_lives || world_.source != S::kInDoubt) return;
    World after = world_;
    if (after.record == Record::kNone) after.record = Record::kDiscarded;
    after.in_flight |= after.record == Record::kStarted ? kStarted : kDiscarded;
    add(after);
  }

  // An operator who has looked at the destination: a dead process starts nothing.
  void operator_decides() {
    if (!world_.source_lives) return;
    const bool never_starts = world_.record == Record::kDiscarded ||
                              (world_.record == Record::kNone && !world_.destination_lives);
    if (never_starts) source_event(SE::kResolvedResume);
    if (world_.record == Record::kStarted) source_event(SE::kResolvedDiscard);
  }

  World world_;
  std::vector<World> worlds_;
};

// Every world that can come about, and which follow from which.
class Universe {
 public:
  Universe() : seen_(World::kCount) {
    add(World{});
    for (std::size_t i = 0; i < worlds_.size(); ++i) {
      const World world = worlds_[i];
      const Steps steps(world, Operator::kPresent);
      for (const World& after : steps.worlds()) add(after);
    }
  }
  [[nodiscard]] const std::vector<World>& worlds() const { return worlds_; }

  // Whether each world that keeps to `within` leads to one that is `good`, by steps that keep to
  // it.
  [[nodiscard]] bool always_leads(bool (*within)(const World&), bool (*good)(const World&),
                                  World& stuck) const {
    std::vector<bool> leads(World::kCount);
    for (bool changed = true; changed;) {
      changed = false;
      // Backwards, since steps mostly lead to worlds found later.
      for (auto world = worlds_.rbegin(); world != worlds_.rend(); ++world) {
        if (leads[world->number()] || !within(*world)) continue;
        const auto next_worlds = Steps(*world, Operator::kAbsent).worlds();
        const bool leads_on = std::ranges::any_of(
            next_worlds, [&](const World& after) { return leads[after.number()]; });
        if (!leads_on && !good(*world)) continue;
        leads[world->number()] = true;
        changed = true;
      }
    }
    const auto lost = std::ranges::find_if(
        worlds_, [&](const World& world) { return within(world) && !leads[world.number()]; });
    if (lost == worlds_.end()) return true;
    stuck = *lost;
    return false;
  }

 private:
  void add(const World& world) {
    if (seen_[world.number()]) return;
    seen_[world.number()] = true;
    worlds_.push_back(world);
  }

  std::vector<bool> seen_;
  std::vector<World> worlds_;
};

const Universe& universe() {
  static const Universe all;
  return all;
}

std::string describe(const World& world) {
  return std::string(to_string(world.source)) + (world.source_lives ? "" : " (killed)") + " / " +
         std::string(to_string(world.destination)) + (world.destination_lives ? "" : " (killed)") +
         ", record " + std::to_string(static_cast<int>(world.record)) + ", in flight " +
         std::to_string(world.in_flight);
}

TEST(HandoverProductTest, NeverTwoRunWhateverIsLostOrKilled) {
  bool moved = false;
  bool kept = false;
  for (const World& world : universe().worlds()) {
    ASSERT_FALSE(world.source_runs() && world.destination_runs()) << describe(world);
    moved = moved || (world.destination_runs() && world.source == S::kDone);
    kept = kept || (world.source_runs() && world.destination == D::kDiscarded);
  }
  EXPECT_TRUE(moved);
  EXPECT_TRUE(kept);
  EXPECT_GT(universe().worlds().size(), 300U);
}

TEST(HandoverProductTest, SourceNeverRunsOnceTheStartIsRecorded) {
  for (const World& world : universe().worlds()) {
    // Not even when the destination was killed right behind it: its guest may have written to
    // disks.
    ASSERT_FALSE(world.source_runs() && world.record == Record::kStarted) << describe(world);
  }
}

TEST(HandoverProductTest, DestinationRunsOnlyBehindTheCommitAndItsOwnRecord) {
  for (const World& world : universe().worlds()) {
    if (!world.destination_runs()) continue;
    ASSERT_EQ(world.record, Record::kStarted) << describe(world);
    ASSERT_GE(world.source, S::kCommitted) << describe(world);
    ASSERT_NE(world.source, S::kFailed) << describe(world);
  }
}

// Liveness: where nobody was killed there is always a way on that needs neither a kill nor an
// operator and ends with one guest running.
TEST(HandoverProductTest, WithoutAKillAGuestCanAlwaysRunAgain) {
  World stuck;
  EXPECT_TRUE(universe().always_leads(
      [](const World& world) { return world.nobody_was_killed(); },
      [](const World& world) { return world.source_runs() || world.destination_runs(); }, stuck))
      << describe(stuck);
}

}  // namespace
}  // namespace vmm::migration
