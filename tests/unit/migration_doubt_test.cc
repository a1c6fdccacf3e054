// Source and Destination whose connection fails behind the commit, and the doubt that follows.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "migration_rig.h"

namespace vmm::migration {
namespace {

using ::testing::HasSubstr;

std::vector<FaultPlan::At> commit_is(Fault fault) {
  return {{message_place(true, MessageType::kCommit), fault}};
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
