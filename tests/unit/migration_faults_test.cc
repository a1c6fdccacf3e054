// Source and Destination with connections that fail, and the doubt that may follow.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "migration_rig.h"

namespace vmm::migration {
namespace {

using namespace std::chrono_literals;
using ::testing::HasSubstr;

constexpr auto kSilence = 400ms;  // a timeout that is meant to be met

// Whatever fails at whichever message, one of both has the guest in the end.
class MigrationFaultTest : public ::testing::TestWithParam<std::tuple<bool, Fault, bool>> {};

TEST_P(MigrationFaultTest, LeavesTheGuestAtExactlyOneSide) {
  const auto [outgoing, fault, verify] = GetParam();
  std::size_t number = 0;
  for (bool fired = true; fired; ++number) {
    SCOPED_TRACE(fmt::format("message {}", number));
    ASSERT_LT(number, 100u);
    MigrationRig rig(FaultPlan::At{outgoing, number, std::nullopt, fault},
                     fault == Fault::kStall ? kSilence : std::chrono::milliseconds(kLong));
    rig.options.verify = verify;
    rig.run();
    fired = rig.plan.fired();
    const auto sent = rig.plan.sent();
    const bool committed = std::ranges::count(sent, MessageType::kCommit) > 0;
    if (*rig.moved) {
      EXPECT_TRUE(committed);
      rig.expect_arrived();
    } else {
      rig.expect_stayed();
    }
    EXPECT_TRUE(fired || fault == Fault::kStall || *rig.moved) << rig.error();
    if (HasFailure()) return;
  }
  EXPECT_GE(number, outgoing ? 8u : 6u) << "every message was met";
}

INSTANTIATE_TEST_SUITE_P(Everywhere, MigrationFaultTest,
                         ::testing::Combine(::testing::Bool(),
                                            ::testing::Values(Fault::kCut, Fault::kCutAfter,
                                                              Fault::kGarbage, Fault::kStall),
                                            ::testing::Bool()));

FaultPlan::At commit_is(Fault fault) {
  return {true, 0, MessageType::kCommit, fault};
}

TEST(MigrationDoubtTest, AsksAndHearsThatTheGuestWasStarted) {
  MigrationRig rig(commit_is(Fault::kCutAfter));
  rig.run();
  rig.expect_arrived();
  EXPECT_EQ(rig.world.calls("source doubt"), 1);
}

TEST(MigrationDoubtTest, AsksAndHearsThatItNeverWillBe) {
  MigrationRig rig(commit_is(Fault::kCut));
  rig.run();
  rig.expect_stayed();
  EXPECT_EQ(rig.world.calls("source doubt"), 1);
  EXPECT_EQ(rig.decision(), Outcome::kDiscarded);
  EXPECT_THAT(rig.error(), HasSubstr("there:4444 did not start the guest"));
}

TEST(MigrationDoubtTest, ADestinationThatHasToldOthersThatItWillNotStartDoesNot) {
  MigrationRig rig;
  rig.world.on_call = [&rig](const std::string& call) {
    if (call != "destination acquire 1") return;
    ASSERT_TRUE(rig.destination_records.decide(rig.manifest.id, Outcome::kDiscarded, 1));
  };
  rig.run();
  rig.expect_stayed();
}

TEST(MigrationDoubtTest, WaitsForTheOperatorWhereNobodyAnswers) {
  for (const bool resume : {true, false}) {
    SCOPED_TRACE(resume);
    MigrationRig rig(commit_is(resume ? Fault::kCut : Fault::kCutAfter));
    rig.plan.no_answers = true;
    EXPECT_FALSE(rig.source.has_value());
    rig.start();
    EXPECT_FALSE(rig.source->resolve(resume)) << "not yet";
    rig.wait_for_state(SourceState::kInDoubt);
    EXPECT_FALSE(rig.source->cancel());
    EXPECT_FALSE(rig.world.source_runs());
    while (rig.record() != SourceOutcome::kInDoubt) std::this_thread::yield();
    EXPECT_TRUE(rig.source->resolve(resume));
    rig.wait();
    if (resume) {
      rig.expect_stayed();
      EXPECT_EQ(rig.record(), SourceOutcome::kResumed);
    } else {
      ASSERT_TRUE(*rig.moved);
      EXPECT_EQ(rig.source->state(), SourceState::kDone);
      EXPECT_FALSE(rig.world.source_runs());
      EXPECT_EQ(rig.record(), SourceOutcome::kDiscarded);
    }
    EXPECT_FALSE(rig.source->resolve(!resume)) << "it is resolved";
  }
}

TEST(MigrationDoubtTest, IsAbandonedInDoubtWithTheGuestStandingStill) {
  MigrationRig rig(commit_is(Fault::kCutAfter));
  rig.plan.no_answers = true;
  rig.start();
  rig.wait_for_state(SourceState::kInDoubt);
  rig.source->abandon();
  rig.wait();
  ASSERT_FALSE(*rig.moved);
  EXPECT_EQ(rig.moved->error().kind(), ErrorKind::kInDoubt);
  EXPECT_EQ(rig.record(), SourceOutcome::kInDoubt);
  EXPECT_FALSE(rig.world.source_runs());
}

}  // namespace
}  // namespace vmm::migration
