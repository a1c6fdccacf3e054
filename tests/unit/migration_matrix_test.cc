// Every message, preamble and record of a migration, in both directions, meets every fault.
#include <gtest/gtest.h>

#include "migration_harness.h"

namespace vmm::migration {
namespace {

using namespace std::chrono_literals;

// A timeout that is meant to be met.
constexpr auto kSilence = 400ms;

// What happens for the piece to be sent at all.
enum class Scene {
  kMoves,             // all goes well
  kRests,             // it takes so long that heartbeats are sent
  kRefused,           // the destination has no memory for the machine
  kNotStarted,        // it does not get the disks
  kSourceFails,       // the source's machine cannot be saved
  kDestinationFails,  // a data channel brings nonsense
  kDoubt,             // the link is gone behind COMMIT
};

struct Subject {
  Place place;
  Scene scene = Scene::kMoves;
  std::size_t times = 1;  // so many of them are tried, one by one
};

std::vector<Subject> subjects() {
  using M = MessageType;
  using C = ConnectionKind;
  std::vector<Subject> all;
  for (const auto connection : {C::kControl, C::kData}) {
    all.push_back({preamble_place(connection), Scene::kMoves, connection == C::kData ? 2U : 1U});
    all.push_back({answer_place(connection), Scene::kMoves, connection == C::kData ? 2U : 1U});
  }
  for (const auto type : {M::kManifest, M::kRoundEnd, M::kAskTime, M::kRehearse, M::kState,
                          M::kVerify, M::kCommit, M::kDone}) {
    all.push_back({message_place(true, type), Scene::kMoves, type == M::kRoundEnd ? 2U : 1U});
  }
  for (const auto type :
       {M::kAccept, M::kRoundAck, M::kTime, M::kRehearsed, M::kPrepared, M::kDigest, M::kStarted}) {
    all.push_back({message_place(false, type), Scene::kMoves, type == M::kRoundAck ? 2U : 1U});
  }
  for (const auto type :
       {RecordType::kPages, RecordType::kZero, RecordType::kHole, RecordType::kRoundEnd}) {
    all.push_back({record_place(type)});
  }
  for (const bool outgoing : {true, false}) {
    all.push_back({message_place(outgoing, M::kHeartbeat), Scene::kRests});
  }
  all.push_back({message_place(false, M::kRefuse), Scene::kRefused});
  all.push_back({message_place(false, M::kDiscarded), Scene::kNotStarted});
  all.push_back({message_place(true, M::kCancel), Scene::kSourceFails});
  all.push_back({message_place(false, M::kCancel), Scene::kDestinationFails});
  all.push_back({preamble_place(C::kQuery), Scene::kDoubt});
  all.push_back({answer_place(C::kQuery), Scene::kDoubt});
  all.push_back({message_place(false, M::kOutcome, C::kQuery), Scene::kDoubt});
  return all;
}

bool applies(const Place& place, Fault fault) {
  std::size_t size = 64;
  if (place.part == Place::Part::kMessage) {
    size = kFrameHeaderBytes + (max_payload(place.type).value() > 0 ? 4 : 0);
  } else if (place.part == Place::Part::kRecord &&
             place.type != static_cast<std::uint32_t>(RecordType::kPages)) {
    size = sizeof(RecordHeader);
  }
  return act(place, fault, std::vector<std::byte>(size)).has_value();
}

// Whether a side that notices nothing for so long is how the fault is met.
bool is_met_by_waiting(Fault fault) {
  return fault == Fault::kStall || fault == Fault::kBlocked || fault == Fault::kByteLost;
}

// Before the commit, a fault that is one at all leaves the guest where it is.
Expect expected(const Subject& subject, Fault fault) {
  switch (subject.scene) {
    case Scene::kRefused:
    case Scene::kNotStarted:
    case Scene::kSourceFails:
    case Scene::kDestinationFails:
      return Expect::kStays;
    case Scene::kDoubt:
      // Time may run out before it comes to that.
      return is_met_by_waiting(fault) ? Expect::kAny : Expect::kMoves;
    case Scene::kMoves:
    case Scene::kRests:
      break;
  }
  const auto& place = subject.place;
  if (place.is(MessageType::kDone)) return is_met_by_waiting(fault) ? Expect::kAny : Expect::kMoves;
  if (place.is(MessageType::kCommit) || place.is(MessageType::kStarted)) return Expect::kAny;
  // Some of what is said twice, or is a little different, does no harm; nor does a byte that the
  // next message fills in for.
  if (fault == Fault::kDuplicated || fault == Fault::kFlipped || fault == Fault::kByteLost) {
    return Expect::kAny;
  }
  // The source may be ahead of it.
  if (place.is(MessageType::kDigest) && fault == Fault::kCutAfter) return Expect::kAny;
  return Expect::kStays;
}

// The faults of a migration: what the scene needs, then the one it is about.
std::vector<FaultPlan::At> faults_of(const Subject& subject, Fault fault, std::size_t number) {
  std::vector<FaultPlan::At> faults;
  if (subject.scene == Scene::kDestinationFails) {
    faults.push_back({record_place(RecordType::kPages), Fault::kGarbage});
  } else if (subject.scene == Scene::kDoubt) {
    faults.push_back({message_place(true, MessageType::kCommit), Fault::kCutAfter});
  }
  faults.push_back({subject.place, fault, number});
  return faults;
}

void set(Scene scene, MigrationRig& rig) {
  switch (scene) {
    case Scene::kRests:
      rig.world.on_call = [&rig](const std::string& call) {
        if (call != "destination restore 1") return;
        const auto until = std::chrono::steady_clock::now() + kLong;
        while (!rig.plan.fired() && std::chrono::steady_clock::now() < until) {
          std::this_thread::sleep_for(1ms);
        }
      };
      return;
    case Scene::kRefused:
      rig.refusal = GuestMemory::create(0, std::uint64_t{1} << 51, Backing::kHugetlb).error();
      return;
    case Scene::kNotStarted:
      rig.world.failing = "destination acquire 1";
      return;
    case Scene::kSourceFails:
      rig.world.failing = "source save 2";
      return;
    case Scene::kMoves:
    case Scene::kDestinationFails:
    case Scene::kDoubt:
      return;
  }
}

std::vector<std::string> run(const Subject& subject, Fault fault, std::size_t number,
                             const std::string& name) {
  const bool waits = is_met_by_waiting(fault) || subject.scene == Scene::kRests;
  MigrationRig rig(faults_of(subject, fault, number),
                   waits ? kSilence : std::chrono::milliseconds(kLong));
  rig.world.label = name + ": ";
  rig.options.verify = true;
  set(subject.scene, rig);
  rig.run();
  auto found = violations_of(rig, expected(subject, fault));
  // Where time runs out elsewhere first, it was no test of this.
  if (!rig.plan.fired() && !waits) found.emplace_back("it did not come to it");
  return found;
}

class MigrationMatrixTest : public ::testing::TestWithParam<Subject> {};

TEST_P(MigrationMatrixTest, LeavesTheGuestAtExactlyOneSide) {
  const Subject subject = GetParam();
  std::vector<Cell> cells;
  for (const auto fault : kFaults) {
    if (!applies(subject.place, fault)) continue;
    for (std::size_t number = 0; number < subject.times; ++number) {
      cells.push_back(
          {fmt::format("{} {} × {}", to_string(subject.place), number, to_string(fault)),
           [=](const std::string& name) { return run(subject, fault, number, name); }});
    }
  }
  EXPECT_GE(cells.size(), 9u);
  run_cells(cells);
}

INSTANTIATE_TEST_SUITE_P(Everywhere, MigrationMatrixTest, ::testing::ValuesIn(subjects()),
                         [](const auto& param) { return to_string(param.param.place); });

// Nothing that travels is left out above.
TEST(MigrationMatrixSubjectsTest, HaveEveryMessageAndRecord) {
  const auto all = subjects();
  const auto has = [&](Place::Part part, std::uint32_t type) {
    return std::ranges::any_of(all, [&](const Subject& subject) {
      return subject.place.part == part && subject.place.type == type;
    });
  };
  for (std::uint32_t type = 1; max_payload(type); ++type) {
    EXPECT_TRUE(has(Place::Part::kMessage, type)) << to_string(static_cast<MessageType>(type));
  }
  for (std::uint32_t type = 1; to_string(static_cast<RecordType>(type)) != "unknown"; ++type) {
    EXPECT_TRUE(has(Place::Part::kRecord, type)) << type;
  }
}

}  // namespace
}  // namespace vmm::migration
