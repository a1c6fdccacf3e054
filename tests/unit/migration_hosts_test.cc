// Migrations whose hosts fail: disks that are full or broken under the records, and guests that
// cannot do what they are asked to.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "file_faults.h"
#include "migration_harness.h"

namespace vmm::migration {
namespace {

using ::testing::HasSubstr;
using How = FileFaults::How;

// --- The records' disk ---

struct DiskFault {
  bool at_source = false;
  int error = 0;
  How how = How::kOnce;
  bool in_doubt = false;  // the link goes behind COMMIT, so that the record has to answer
};

std::string name_of(const DiskFault& fault) {
  return fmt::format("{}_{}_{}{}", fault.at_source ? "Source" : "Destination",
                     fault.error == ENOSPC ? "ENOSPC" : "EIO",
                     fault.how == How::kOnce ? "Once" : "FromThereOn",
                     fault.in_doubt ? "_InDoubt" : "");
}

class RecordsDiskTest : public ::testing::TestWithParam<DiskFault> {};

// Each system call of the records fails in its turn.
TEST_P(RecordsDiskTest, FailsAtAnyStepAndLeavesTheGuestAtExactlyOneSide) {
  const auto [at_source, error, how, in_doubt] = GetParam();
  int number = 0;
  for (bool fired = true; fired; ++number) {
    ASSERT_LT(number, 100);
    std::vector<FaultPlan::At> link;
    if (in_doubt) link = {{message_place(true, MessageType::kCommit), Fault::kCutAfter}};
    MigrationRig rig(link);
    rig.world.label = fmt::format("{} × call {}: ", name_of(GetParam()), number);
    const auto folder = at_source ? rig.source_folder : rig.destination_folder;
    bool kept_a_file = false;
    {
      FileFaults faults(folder, number, error, how);
      rig.run();
      fired = faults.fired();
      kept_a_file = faults.kept_a_file();
    }
    if (!fired) {
      rig.expect_arrived();
      break;
    }
    for (const auto& violation : violations_of(rig, Expect::kAny)) {
      // What cannot be removed stays, and what cannot be written is not there.
      if (kept_a_file && violation.starts_with("left behind")) continue;
      if (at_source && violation == "the source's record") continue;
      // Without a disk to say so, the destination's process is the one that knows.
      if (kept_a_file && how == How::kFromThereOn && violation == "the destination's record") {
        continue;
      }
      ADD_FAILURE() << rig.world.label << violation;
    }
  }
  EXPECT_GE(number, at_source ? 8 : 7) << "every call was met";
}

std::vector<DiskFault> disk_faults() {
  std::vector<DiskFault> all;
  for (const bool at_source : {false, true}) {
    for (const int error : {ENOSPC, EIO}) {
      for (const auto how : {How::kOnce, How::kFromThereOn}) {
        for (const bool in_doubt : {false, true}) all.push_back({at_source, error, how, in_doubt});
      }
    }
  }
  return all;
}

INSTANTIATE_TEST_SUITE_P(Everywhere, RecordsDiskTest, ::testing::ValuesIn(disk_faults()),
                         [](const auto& param) { return name_of(param.param); });

TEST(RecordsDiskTest, ADecisionThatStandsIsToldFromAFullDisk) {
  MigrationRig rig;
  const auto& id = rig.manifest.id;
  ASSERT_EQ(rig.destination_records.decide(id, Outcome::kStarted, 1).value(), Outcome::kStarted);
  // No file can be made: the calls before the one that does are those that look for the record.
  for (int number = 0; number < 20; ++number) {
    FileFaults faults(rig.destination_folder, number, ENOSPC, How::kOnce);
    const auto decided = rig.destination_records.decide(id, Outcome::kDiscarded, 2);
    if (!faults.fired()) {
      EXPECT_EQ(decided.value(), Outcome::kStarted);
      EXPECT_LE(number, 4) << "it is only looked up";
      return;
    }
    if (decided) {
      EXPECT_EQ(decided.value(), Outcome::kStarted);
    }
  }
  FAIL() << "there are more calls than there can be";
}

// --- The guests ---

struct Call {
  std::string name;
  Expect expect = Expect::kStays;
};

TEST(MigrationHostsTest, AGuestThatFailsInAnyCallLeavesOneAtExactlyOneSide) {
  const std::vector<Call> calls{
      {"source pause 1"},        {"source save 1"},
      {"source resume 1"},       {"source pause 2"},
      {"source save 2"},         {"source release 1"},
      {"destination restore 1"}, {"destination restore 2"},
      {"destination acquire 1"}, {"destination start 1", Expect::kLost},
  };
  std::vector<Cell> cells;
  for (const auto& [failing, expect] : calls) {
    cells.push_back({failing, [=](const std::string& name) {
                       MigrationRig rig;
                       rig.world.label = name + ": ";
                       rig.world.failing = failing;
                       rig.run();
                       auto found = violations_of(rig, expect);
                       if (rig.world.calls(failing.substr(0, failing.rfind(' '))) == 0) {
                         found.emplace_back("it did not come to it");
                       }
                       return found;
                     }});
  }
  // The same, with the connection gone at that moment.
  for (const auto& [failing, expect] : calls) {
    cells.push_back({failing + " × cut", [=](const std::string& name) {
                       MigrationRig rig;
                       rig.world.label = name + ": ";
                       rig.world.failing = failing;
                       rig.world.on_call = [&](const std::string& call) {
                         if (call == failing) rig.connector.cut();
                       };
                       rig.run();
                       return violations_of(rig, expect);
                     }});
  }
  run_cells(cells);
}

TEST(MigrationHostsTest, SaysThatTheGuestStaysPausedWhereItCannotGoOn) {
  MigrationRig rig;
  rig.world.failing = "source resume 2";  // the first was after the rehearsal
  rig.world.on_call = [&rig](const std::string& call) {
    if (call == "source release 1") {
      EXPECT_TRUE(rig.source->cancel());
    }
  };
  rig.run();
  ASSERT_FALSE(*rig.moved);
  EXPECT_THAT(rig.error(), HasSubstr("the guest stays paused here: source resume 2 does not work"));
  EXPECT_FALSE(rig.world.source_runs());
  EXPECT_FALSE(rig.world.destination_runs());
  EXPECT_TRUE(rig.world.source_disks());
}

}  // namespace
}  // namespace vmm::migration
