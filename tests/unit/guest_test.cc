#include "vmm/guest.h"

#include <boost/asio/post.hpp>

#include <algorithm>
#include <optional>
#include <thread>
#include <vector>

#include "guest_rig.h"
#include "virtio_rig.h"

namespace vmm {
namespace {

using namespace std::chrono_literals;

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(GuestTest, StartMakesAMachineAndRunsIt) {
  GuestRig f;
  EXPECT_TRUE(f.guest.start());
  EXPECT_THAT(f.log, ElementsAre("new", "resume"));
  EXPECT_EQ(f.guest.state(), GuestState::kRunning);
  EXPECT_EQ(f.guest.vcpu_stats().size(), 2U);
  EXPECT_EQ(f.guest.device_stats().size(), 3U);
  EXPECT_GE(f.guest.uptime(), 0ms);
}

TEST(GuestTest, AMachineThatCannotBeMadeFailsTheStart) {
  GuestRig f;
  f.factory_fails = true;
  expect_error(f.guest.start(), ErrorKind::kHost, "no memory left");
  EXPECT_THAT(f.ends, IsEmpty());
}

enum class Input { kPause, kResume, kPowerKey, kKill, kShutdown, kReset, kCrash, kError };

struct Transition {
  const char* name;
  GuestState from;
  Input input;
  GuestState to;
  bool accepted;       // commands: succeeded
  MachineLog machine;  // what the machines were told
  const char* ending;  // words of the end's error, "" for a good end, null where it did not end
};

class TransitionTest : public ::testing::TestWithParam<Transition> {
 protected:
  static bool apply(GuestRig& f, Input input) {
    switch (input) {
      case Input::kPause:
        return f.guest.pause().has_value();
      case Input::kResume:
        return f.guest.resume().has_value();
      case Input::kPowerKey:
        return f.guest.press_power_key().has_value();
      case Input::kKill:
        EXPECT_TRUE(f.guest.kill(make_error(ErrorKind::kInterrupted, "killed")));
        return true;
      case Input::kShutdown:
        f.send(GuestEvent::kShutdown);
        return true;
      case Input::kReset:
        f.send(GuestEvent::kReset);
        return true;
      case Input::kCrash:
        f.send(GuestEvent::kCrash);
        return true;
      case Input::kError:
        f.send(make_error(ErrorKind::kHost, "KVM_RUN failed"));
        return true;
    }
    return false;
  }
};

TEST_P(TransitionTest, IsAsDrawn) {
  const auto& expected = GetParam();
  GuestRig f;
  ASSERT_TRUE(f.guest.start());
  if (expected.from == GuestState::kPaused) {
    ASSERT_TRUE(f.guest.pause());
  }
  if (expected.from == GuestState::kEnded) f.send(GuestEvent::kShutdown);
  ASSERT_EQ(f.guest.state(), expected.from);
  f.log.clear();
  f.ends.clear();

  EXPECT_EQ(apply(f, expected.input), expected.accepted);
  EXPECT_EQ(f.guest.state(), expected.to);
  EXPECT_EQ(f.log, expected.machine);
  EXPECT_EQ(f.ends.size(), expected.ending == nullptr ? 0U : 1U);
  if (expected.ending != nullptr && !f.ends.empty()) {
    if (*expected.ending == '\0') {
      EXPECT_TRUE(f.ends[0]);
    } else {
      ASSERT_FALSE(f.ends[0]);
      EXPECT_THAT(f.ends[0].error().message(), ::testing::HasSubstr(expected.ending));
    }
  }
  EXPECT_EQ(f.guest.reboots(), static_cast<unsigned>(std::ranges::count(f.log, "new")));
}

constexpr auto kRunning = GuestState::kRunning;
constexpr auto kPaused = GuestState::kPaused;
constexpr auto kEnded = GuestState::kEnded;

INSTANTIATE_TEST_SUITE_P(
    All, TransitionTest,
    ::testing::Values(
        Transition{"running_pause", kRunning, Input::kPause, kPaused, true, {"pause"}, nullptr},
        Transition{"running_resume", kRunning, Input::kResume, kRunning, true, {}, nullptr},
        Transition{"running_key", kRunning, Input::kPowerKey, kRunning, true, {"press"}, nullptr},
        Transition{"running_kill", kRunning, Input::kKill, kEnded, true, {"gone"}, "killed"},
        Transition{"running_shutdown", kRunning, Input::kShutdown, kEnded, true, {"gone"}, ""},
        Transition{"running_reset",
                   kRunning,
                   Input::kReset,
                   kRunning,
                   true,
                   {"gone", "new", "resume"},
                   nullptr},
        Transition{"running_crash", kRunning, Input::kCrash, kEnded, true, {"gone"}, "crash"},
        Transition{
            "running_error", kRunning, Input::kError, kEnded, true, {"gone"}, "KVM_RUN failed"},
        Transition{"paused_pause", kPaused, Input::kPause, kPaused, true, {}, nullptr},
        Transition{"paused_resume", kPaused, Input::kResume, kRunning, true, {"resume"}, nullptr},
        Transition{"paused_key", kPaused, Input::kPowerKey, kPaused, false, {}, nullptr},
        Transition{"paused_kill", kPaused, Input::kKill, kEnded, true, {"gone"}, "killed"},
        Transition{"paused_shutdown", kPaused, Input::kShutdown, kEnded, true, {"gone"}, ""},
        Transition{"paused_reset", kPaused, Input::kReset, kPaused, true, {"gone", "new"}, nullptr},
        Transition{"paused_crash", kPaused, Input::kCrash, kEnded, true, {"gone"}, "crash"},
        Transition{
            "paused_error", kPaused, Input::kError, kEnded, true, {"gone"}, "KVM_RUN failed"},
        Transition{"ended_pause", kEnded, Input::kPause, kEnded, false, {}, nullptr},
        Transition{"ended_resume", kEnded, Input::kResume, kEnded, false, {}, nullptr},
        Transition{"ended_key", kEnded, Input::kPowerKey, kEnded, false, {}, nullptr},
        Transition{"ended_kill", kEnded, Input::kKill, kEnded, true, {}, nullptr},
        Transition{"ended_shutdown", kEnded, Input::kShutdown, kEnded, true, {}, nullptr},
        Transition{"ended_reset", kEnded, Input::kReset, kEnded, true, {}, nullptr},
        Transition{"ended_crash", kEnded, Input::kCrash, kEnded, true, {}, nullptr},
        Transition{"ended_error", kEnded, Input::kError, kEnded, true, {}, nullptr}),
    [](const auto& test) { return test.param.name; });

TEST(GuestTest, EventsOfAMachineThatIsGoneAreIgnored) {
  GuestRig f;
  ASSERT_TRUE(f.guest.start());
  // Two vCPUs report; the second event is still queued when the first one makes a new machine.
  f.handlers[0](GuestEvent::kReset);
  f.handlers[0](GuestEvent::kShutdown);
  f.poll();
  EXPECT_EQ(f.guest.state(), GuestState::kRunning);
  EXPECT_EQ(f.guest.reboots(), 1U);
  f.handlers[0](make_error(ErrorKind::kFailed, "late"));
  f.poll();
  EXPECT_EQ(f.guest.state(), GuestState::kRunning);
  EXPECT_THAT(f.ends, IsEmpty());
  f.send(GuestEvent::kReset);
  EXPECT_EQ(f.guest.reboots(), 2U);
  EXPECT_THAT(f.log,
              ElementsAre("new", "resume", "gone", "new", "resume", "gone", "new", "resume"));
}

TEST(GuestTest, EventsOfVcpuThreadsArriveOnTheLoop) {
  GuestRig f;
  ASSERT_TRUE(f.guest.start());
  std::thread vcpu([&] { f.handlers[0](GuestEvent::kShutdown); });
  vcpu.join();
  EXPECT_EQ(f.guest.state(), GuestState::kRunning) << "not on the thread of the vCPU";
  f.poll();
  EXPECT_EQ(f.guest.state(), GuestState::kEnded);
}

TEST(GuestTest, ARebootThatFailsEndsTheGuest) {
  GuestRig f;
  ASSERT_TRUE(f.guest.start());
  f.factory_fails = true;
  f.send(GuestEvent::kReset);
  EXPECT_EQ(f.guest.state(), GuestState::kEnded);
  ASSERT_EQ(f.ends.size(), 1U);
  expect_error(f.ends[0], ErrorKind::kHost, "cannot reboot the guest: no memory left");
  EXPECT_THAT(f.guest.vcpu_stats(), IsEmpty());
  EXPECT_THAT(f.guest.device_stats(), IsEmpty());
}

TEST(GuestTest, ThePowerKeyIsReleasedAgain) {
  GuestRig f;
  ASSERT_TRUE(f.guest.start());
  f.log.clear();
  EXPECT_TRUE(f.guest.press_power_key());
  f.poll();
  EXPECT_THAT(f.log, ElementsAre("press"));
  f.loop.restart();
  f.loop.run_for(5s);  // ends when nothing is left to wait for
  EXPECT_THAT(f.log, ElementsAre("press", "release"));
}

TEST(GuestTest, AKeyPressedTwiceIsReleasedOnce) {
  GuestRig f;
  ASSERT_TRUE(f.guest.start());
  f.log.clear();
  EXPECT_TRUE(f.guest.press_power_key());
  EXPECT_TRUE(f.guest.press_power_key());
  f.loop.run_for(5s);
  EXPECT_THAT(f.log, ElementsAre("press", "press", "release"));
}

TEST(GuestTest, AKeyHeldDownAtTheEndOrARebootConcernsNoOtherMachine) {
  for (const auto event : {GuestEvent::kShutdown, GuestEvent::kReset}) {
    GuestRig f;
    ASSERT_TRUE(f.guest.start());
    EXPECT_TRUE(f.guest.press_power_key());
    f.handlers.back()(event);
    f.loop.restart();
    f.loop.run_for(5s);
    EXPECT_THAT(f.log, ::testing::Not(::testing::Contains("release")));
  }
}

TEST(GuestTest, TheConsoleIsConnectedToThePresentMachine) {
  GuestRig f;
  f.console.input(bytes_of("early "));
  ASSERT_TRUE(f.guest.start());
  f.console.input(bytes_of("one "));
  f.send(GuestEvent::kReset);
  f.console.input(bytes_of("two"));
  EXPECT_EQ(f.uart, "early one two");
  f.send(GuestEvent::kShutdown);
  f.console.input(bytes_of("late"));
  f.console.device_has_space();
  f.poll();
  EXPECT_EQ(f.uart, "early one two");
}

TEST(GuestTest, TheLastOutputIsHandedOverBeforeTheEnd) {
  GuestRig f;
  Recorder listener;
  f.console.attach(listener);
  f.virtio_console.attach(listener);
  std::string at_end;
  Guest guest(
      f.loop, f.console, &f.virtio_console,
      [&](Machine::EventHandler) -> Result<std::unique_ptr<Machine>> {
        return std::unique_ptr<Machine>(new FakeMachine(f.log, f.uart, f.hvc, nullptr));
      },
      [&](const Result<>&) { at_end = listener.text; });
  ASSERT_TRUE(guest.start());
  f.console.write(bytes_of("Power "));
  f.virtio_console.write(bytes_of("down"));
  EXPECT_TRUE(guest.kill(make_error(ErrorKind::kFailed, "killed")));
  EXPECT_EQ(at_end, "Power down");
}

TEST(GuestTest, TheVirtioConsoleIsConnectedToThePresentMachineWithItsSize) {
  GuestRig f;
  f.virtio_console.resize({132, 43});
  f.virtio_console.input(bytes_of("early "));
  ASSERT_TRUE(f.guest.start());
  EXPECT_THAT(f.log, ElementsAre("new", "132x43", "resume"));
  f.virtio_console.resize({80, 24});
  f.send(GuestEvent::kReset);
  EXPECT_THAT(f.log,
              ElementsAre("new", "132x43", "resume", "80x24", "gone", "new", "80x24", "resume"));
  f.virtio_console.input(bytes_of("late"));
  EXPECT_EQ(f.hvc, "early late");
  EXPECT_EQ(f.uart, "");
  f.send(GuestEvent::kShutdown);
  f.virtio_console.resize({1, 1});
  f.virtio_console.input(bytes_of("!"));
  EXPECT_EQ(f.hvc, "early late");
}

TEST(GuestTest, BalloonCommandsWithoutABalloonAreErrors) {
  GuestRig f;
  ASSERT_TRUE(f.guest.start());
  expect_error(f.guest.set_balloon_target(1 << 20), ErrorKind::kFailed, "has no balloon");
  expect_error(f.guest.set_balloon_period(1s), ErrorKind::kFailed, "has no balloon");
  expect_error(f.guest.balloon_status(), ErrorKind::kFailed, "has no balloon");
  f.send(GuestEvent::kShutdown);
  expect_error(f.guest.balloon_status(), ErrorKind::kFailed, "has ended");
}

TEST(GuestTest, WhatTheBalloonIsAskedForHoldsOverReboots) {
  virtio::VirtioRig first;
  virtio::VirtioRig second;
  GuestRig f;
  const auto put = [&f](virtio::VirtioRig& rig) {
    rig.attach(std::make_unique<virtio::Balloon>(rig.memory, rig.loop));
    f.balloon = dynamic_cast<virtio::Balloon*>(&rig.transport->device());
  };
  put(first);
  ASSERT_TRUE(f.guest.start());
  EXPECT_TRUE(f.guest.set_balloon_target(1 << 20));
  EXPECT_TRUE(f.guest.set_balloon_period(5s));
  EXPECT_EQ(f.guest.balloon_status().value().target, 1U << 20);
  put(second);
  f.send(GuestEvent::kReset);
  EXPECT_EQ(f.guest.balloon_status().value().target, 1U << 20);
  EXPECT_TRUE(second.loop.has_timer_set());
}

TEST(GuestTest, AGuestThatGoesWithEventsQueuedLeavesNothingBehind) {
  GuestRig f;
  ASSERT_TRUE(f.guest.start());
  EXPECT_TRUE(f.guest.press_power_key());
  f.handlers[0](GuestEvent::kReset);
}

TEST(GuestTest, StatesHaveNames) {
  EXPECT_EQ(to_string(GuestState::kRunning), "running");
  EXPECT_EQ(to_string(GuestState::kPaused), "paused");
  EXPECT_EQ(to_string(GuestState::kEnded), "ended");
}

}  // namespace
}  // namespace vmm
