#include <map>
#include <string>
#include <vector>

#include "guest_rig.h"
#include "virtio_rig.h"
#include "vmm/guest.h"

namespace vmm {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

// A guest with a task, which is told to hurry `hurried` times.
struct TaskRig : GuestRig {
  void begin() {
    const auto begun = guest.begin_task("a migration", [this] { ++hurried; });
    ASSERT_TRUE(begun) << begun.error().message();
    ASSERT_NE(begun.value(), nullptr);
  }
  void begin_running() {
    ASSERT_TRUE(guest.start());
    begin();
    log.clear();
  }
  int hurried = 0;
};

TEST(GuestTaskTest, ASecondTaskIsRefusedWithTheNameOfTheFirst) {
  TaskRig f;
  f.begin_running();
  expect_error(f.guest.begin_task("another", [] {}), ErrorKind::kFailed, "busy with a migration");
  f.guest.end_task();
  EXPECT_TRUE(f.guest.begin_task("another", [] {}));
}

TEST(GuestTaskTest, TheMachineStaysUntilTheTaskHasEnded) {
  struct Case {
    const char* name;
    std::function<void(TaskRig&)> cause;
    MachineLog after;
    bool ended;
  };
  const std::vector<Case> cases{
      {"shutdown", [](TaskRig& f) { f.send(GuestEvent::kShutdown); }, {"gone"}, true},
      {"crash", [](TaskRig& f) { f.send(GuestEvent::kCrash); }, {"gone"}, true},
      {"reset", [](TaskRig& f) { f.send(GuestEvent::kReset); }, {"gone", "new", "resume"}, false},
      {"kill",
       [](TaskRig& f) { EXPECT_TRUE(f.guest.kill(make_error(ErrorKind::kFailed, "killed"))); },
       {"gone"},
       true},
  };
  for (const auto& [name, cause, after, ended] : cases) {
    SCOPED_TRACE(name);
    TaskRig f;
    f.begin_running();
    cause(f);
    EXPECT_EQ(f.hurried, 1);
    EXPECT_THAT(f.log, IsEmpty());
    EXPECT_THAT(f.ends, IsEmpty());
    f.guest.end_task();
    EXPECT_EQ(f.log, after);
    EXPECT_EQ(f.guest.state(), ended ? GuestState::kEnded : GuestState::kRunning);
    EXPECT_EQ(f.ends.size(), ended ? 1U : 0U);
    f.guest.end_task();  // once is enough
    EXPECT_EQ(f.log, after);
  }
}

TEST(GuestTaskTest, TheFirstCauseDecidesHowItEnds) {
  TaskRig f;
  f.begin_running();
  f.send(GuestEvent::kShutdown);
  EXPECT_TRUE(f.guest.kill(make_error(ErrorKind::kInterrupted, "killed")));
  EXPECT_EQ(f.hurried, 2);
  f.guest.end_task();
  ASSERT_EQ(f.ends.size(), 1U);
  EXPECT_TRUE(f.ends[0]) << "it had shut down before";
}

TEST(GuestTaskTest, SuspensionGivesBackWhatTheGuestWasDoing) {
  for (const bool paused : {false, true}) {
    SCOPED_TRACE(paused);
    TaskRig f;
    ASSERT_TRUE(f.guest.start());
    if (paused) {
      ASSERT_TRUE(f.guest.pause());
    }
    f.begin();
    f.log.clear();
    ASSERT_TRUE(f.guest.suspend());
    EXPECT_EQ(f.guest.state(), GuestState::kHandover);
    EXPECT_EQ(f.guest.paused(), paused);
    f.guest.set_in_doubt();
    EXPECT_EQ(f.guest.state(), GuestState::kInDoubt);
    EXPECT_EQ(f.guest.paused(), paused);
    f.guest.unsuspend();
    EXPECT_EQ(f.guest.state(), paused ? GuestState::kPaused : GuestState::kRunning);
    EXPECT_EQ(f.log, paused ? MachineLog{} : (MachineLog{"pause", "resume"}));
    f.guest.unsuspend();  // nothing to give back
    EXPECT_EQ(f.log.size(), paused ? 0U : 2U);
  }
}

TEST(GuestTaskTest, AGuestThatIsAboutToEndIsNotSuspended) {
  TaskRig f;
  f.begin_running();
  f.send(GuestEvent::kShutdown);
  expect_error(f.guest.suspend(), ErrorKind::kFailed, "shut down or rebooted");
  EXPECT_THAT(f.log, IsEmpty());
}

TEST(GuestTaskTest, OnlyAHandoverCanComeInDoubt) {
  TaskRig f;
  f.begin_running();
  f.guest.set_in_doubt();
  EXPECT_EQ(f.guest.state(), GuestState::kRunning);
}

TEST(GuestTaskTest, AGuestThatHasDepartedHasEndedWell) {
  TaskRig f;
  f.begin_running();
  ASSERT_TRUE(f.guest.suspend());
  f.guest.end_task();
  f.guest.depart();
  EXPECT_EQ(f.guest.state(), GuestState::kEnded);
  EXPECT_THAT(f.log, ElementsAre("pause", "gone"));
  ASSERT_EQ(f.ends.size(), 1U);
  EXPECT_TRUE(f.ends[0]);
}

// Every command in every state that a migration can put a guest into.
TEST(GuestTaskTest, CommandsAreRefusedWhereOnlyTheMigrationDecides) {
  struct Case {
    std::function<void(TaskRig&)> enter;
    GuestState state;
    ErrorKind kind;
    const char* words;
    bool task_taken;
  };
  const auto incoming = [](TaskRig& f) { ASSERT_TRUE(f.guest.start_incoming()); };
  const auto handover = [](TaskRig& f) {
    ASSERT_TRUE(f.guest.start());
    ASSERT_TRUE(f.guest.begin_task("a migration", [] {}));
    ASSERT_TRUE(f.guest.suspend());
  };
  const auto in_doubt = [handover](TaskRig& f) {
    handover(f);
    f.guest.set_in_doubt();
  };
  const std::vector<Case> cases{
      {incoming, GuestState::kIncoming, ErrorKind::kFailed, "not arrived yet", true},
      {handover, GuestState::kHandover, ErrorKind::kFailed, "stands still for a migration", false},
      {in_doubt, GuestState::kInDoubt, ErrorKind::kInDoubt, "vmm migration resolve", false},
  };
  for (const auto& [enter, state, kind, words, task_taken] : cases) {
    SCOPED_TRACE(to_string(state));
    TaskRig f;
    enter(f);
    ASSERT_EQ(f.guest.state(), state);
    f.log.clear();
    const std::map<std::string, Result<>> results{
        {"pause", f.guest.pause()},
        {"resume", f.guest.resume()},
        {"stop", f.guest.press_power_key()},
        {"balloon", f.guest.set_balloon_target(0)},
        {"balloon period", f.guest.set_balloon_period(std::chrono::seconds(1))},
        {"suspend", f.guest.suspend()},
    };
    for (const auto& [command, result] : results) {
      SCOPED_TRACE(command);
      expect_error(result, kind, words);
    }
    EXPECT_EQ(f.guest.begin_task("a task", [] {}).has_value(), task_taken);
    EXPECT_EQ(f.guest.state(), state);
    EXPECT_THAT(f.log, IsEmpty());
  }
}

TEST(GuestTaskTest, AGuestInDoubtIsNotKilledAndOneInHandoverIs) {
  TaskRig f;
  ASSERT_TRUE(f.guest.start());
  ASSERT_TRUE(f.guest.suspend());
  EXPECT_TRUE(f.guest.check_killable());
  f.guest.set_in_doubt();
  expect_error(f.guest.check_killable(), ErrorKind::kInDoubt, "another host");
  expect_error(f.guest.kill(make_error(ErrorKind::kFailed, "killed")), ErrorKind::kInDoubt, "");
  EXPECT_THAT(f.ends, IsEmpty());
  f.guest.unsuspend();
  EXPECT_TRUE(f.guest.kill(make_error(ErrorKind::kFailed, "killed")));
  EXPECT_EQ(f.ends.size(), 1U);
}

TEST(GuestArrivalTest, ItRunsOnceItIsHere) {
  TaskRig f;
  ASSERT_TRUE(f.guest.start_incoming());
  EXPECT_EQ(f.guest.state(), GuestState::kIncoming);
  EXPECT_THAT(f.log, ElementsAre("new"));
  f.guest.arrive(false);
  EXPECT_EQ(f.guest.state(), GuestState::kRunning);
  EXPECT_THAT(f.log, ElementsAre("new", "release", "resume")) << "no key stays pressed";
}

TEST(GuestArrivalTest, OneThatWasPausedStaysPaused) {
  TaskRig f;
  ASSERT_TRUE(f.guest.start_incoming());
  f.guest.arrive(true);
  EXPECT_EQ(f.guest.state(), GuestState::kPaused);
  EXPECT_THAT(f.log, ElementsAre("new", "release"));
  EXPECT_TRUE(f.guest.resume());
}

TEST(GuestArrivalTest, WhatTheBalloonWasAskedForHoldsHereToo) {
  virtio::VirtioRig first;
  virtio::VirtioRig second;
  TaskRig f;
  const auto put = [&f](virtio::VirtioRig& rig) {
    rig.attach(std::make_unique<virtio::Balloon>(rig.memory, rig.loop));
    f.balloon = dynamic_cast<virtio::Balloon*>(&rig.transport->device());
  };
  put(first);
  ASSERT_TRUE(f.guest.start_incoming());
  f.balloon->set_target(1 << 20);  // part of the state that has come
  f.guest.arrive(false);
  put(second);
  f.send(GuestEvent::kReset);
  EXPECT_EQ(f.guest.balloon_status().value().target, 1U << 20);
}

TEST(GuestArrivalTest, OneThatIsKilledOnItsWayNeverRuns) {
  TaskRig f;
  ASSERT_TRUE(f.guest.start_incoming());
  f.begin();
  EXPECT_TRUE(f.guest.kill(make_error(ErrorKind::kFailed, "killed")));
  EXPECT_EQ(f.hurried, 1);
  f.guest.end_task();
  EXPECT_THAT(f.log, ElementsAre("new", "gone"));
  EXPECT_EQ(f.ends.size(), 1U);
}

// Bytes that the UART took behind the save of its state would be in no state at all.
TEST(GuestConsoleTest, InputWaitsWhileTheMachineIsSavedOrOnItsWay) {
  TaskRig f;
  ASSERT_TRUE(f.guest.start());
  ASSERT_TRUE(f.guest.suspend());
  f.console.input(bytes_of("typed in the handover"));
  f.poll();
  EXPECT_EQ(f.uart, "");
  f.guest.unsuspend();
  f.poll();
  EXPECT_EQ(f.uart, "typed in the handover");

  TaskRig other;
  ASSERT_TRUE(other.guest.start_incoming());
  other.console.input(bytes_of("early"));
  other.poll();
  EXPECT_EQ(other.uart, "");
  other.guest.arrive(false);
  other.poll();
  EXPECT_EQ(other.uart, "early");
}

TEST(GuestStateTest, StatesOfAMigrationHaveNames) {
  EXPECT_EQ(to_string(GuestState::kIncoming), "incoming");
  EXPECT_EQ(to_string(GuestState::kHandover), "handover");
  EXPECT_EQ(to_string(GuestState::kInDoubt), "in doubt");
}

}  // namespace
}  // namespace vmm
