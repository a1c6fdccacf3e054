// Source and Destination with a guest that writes faster than it can be sent: how it is slowed, and
// that it is not slowed any more however the migration ends.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>
#include <vector>

#include "migration_rig.h"

namespace vmm::migration {
namespace {

using namespace std::chrono_literals;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::vector<FaultPlan::At> message_is(MessageType type, Fault fault) {
  return {{message_place(true, type), fault}};
}

// Every round leaves as many pages as the one before it, and they are too many, whatever the speed
// of the machine that the test runs on: no round is fast enough that they could be sent within the
// downtime limit.
class ThrottleRig : public MigrationRig {
 public:
  explicit ThrottleRig(std::vector<FaultPlan::At> faults = {}) : MigrationRig(std::move(faults)) {
    options.limits.downtime = 600ms;
    options.limits.log = LogChoice::kWriteProtect;
    options.limits.max_throttle = 60;
    options.limits.max_rounds = 7;
    options.limits.on_timeout = OnTimeout::kStopAndCopy;
    // The first round takes so long that a page costs more than a millisecond. Pages that the guest
    // has given back count no less, and the rounds that tell of them do not change what is known.
    plan.on_message = [this](bool outgoing, MessageType type) {
      if (!outgoing && type == MessageType::kRoundAck && !first_over_) {
        first_over_ = true;
        std::this_thread::sleep_for(600ms);
      }
    };
    source_guest.log.between = [this] {
      if (!world.source_runs()) return;
      for (std::uint64_t page = 0; page < kGuestPages; ++page) {
        if (page % 3 != 0) source_guest.log.write(page);
      }
    };
  }
  // What happens when the guest is slowed for the n-th time.
  void when_throttled(int n, std::function<void()> action) {
    world.on_call = [n, action = std::move(action)](const std::string& call) {
      if (call == fmt::format("source throttle {}", n)) action();
    };
  }
  void expect_was_throttled() const { EXPECT_GT(source_guest.most_throttled, 0U); }

 private:
  bool first_over_ = false;
};

std::vector<unsigned> throttles(const MigrationReport& report) {
  std::vector<unsigned> found;
  for (const auto& round : report.rounds) found.push_back(round.throttle_percent);
  return found;
}

TEST(MigrationThrottleTest, AGuestIsSlowedStepByStepAndMovesAtFullSpeed) {
  ThrottleRig rig;
  std::vector<unsigned> told;
  // What is told is what was in force before.
  rig.world.on_call = [&](const std::string& call) {
    if (call.starts_with("source throttle"))
      told.push_back(rig.source->progress().throttle_percent);
    if (call == "source save 2") {
      EXPECT_EQ(rig.source_guest.throttled, 0U) << "as soon as it stands still";
    }
  };
  rig.run();
  rig.expect_arrived();
  EXPECT_THAT(throttles(rig.moved->value()), ElementsAre(0, 0, 20, 40, 60, 60, 60, 0));
  EXPECT_THAT(told, ElementsAre(0, 20, 40, 60));
  EXPECT_EQ(rig.source->progress().throttle_percent, 0U);
}

TEST(MigrationThrottleTest, NobodyIsSlowedUnlessAskedTo) {
  ThrottleRig rig;
  rig.options.limits.max_throttle = 0;
  rig.run();
  rig.expect_arrived();
  EXPECT_EQ(rig.world.calls("source throttle"), 0);
}

// In all of these expect_stayed() tells that the guest has its speed again.

TEST(MigrationThrottleTest, EndsWhereALimitEndsTheMigration) {
  ThrottleRig rig;
  rig.options.limits.on_timeout = OnTimeout::kCancel;
  rig.run();
  rig.expect_stayed();
  rig.expect_was_throttled();
}

TEST(MigrationThrottleTest, EndsWithACancelOnEitherSide) {
  ThrottleRig here;
  here.when_throttled(2, [&here] { EXPECT_TRUE(here.source->cancel()); });
  here.run();
  here.expect_stayed(ErrorKind::kInterrupted);
  here.expect_was_throttled();

  ThrottleRig there;
  there.when_throttled(2, [&there] { there.destination->cancel(); });
  there.run();
  there.expect_stayed();
  there.expect_was_throttled();
}

TEST(MigrationThrottleTest, EndsWhereTheConnectionOrTheLogFails) {
  ThrottleRig cut(message_is(MessageType::kState, Fault::kCut));
  cut.run();
  cut.expect_stayed();
  cut.expect_was_throttled();

  ThrottleRig broken;
  broken.when_throttled(1, [&broken] { broken.source_guest.log.broken = true; });
  broken.run();
  broken.expect_stayed();
  broken.expect_was_throttled();
}

TEST(MigrationThrottleTest, EndsWhereTheGuestCannotBeStopped) {
  ThrottleRig rig;
  rig.world.failing = "source pause 2";  // it shuts down or reboots
  rig.run();
  rig.expect_stayed();
  rig.expect_was_throttled();
  EXPECT_THAT(rig.error(), HasSubstr("source pause 2"));
}

TEST(MigrationThrottleTest, EndsWithTheProcess) {
  ThrottleRig rig;
  rig.when_throttled(2, [&rig] { rig.source->abandon(); });
  rig.run();
  rig.expect_stayed(ErrorKind::kInterrupted);
  rig.expect_was_throttled();
}

TEST(MigrationThrottleTest, IsOverForAGuestInDoubt) {
  for (const bool resume : {true, false}) {
    ThrottleRig rig(message_is(MessageType::kCommit, resume ? Fault::kCut : Fault::kCutAfter));
    rig.plan.no_answers = true;
    rig.start();
    rig.wait_for_state(SourceState::kInDoubt);
    EXPECT_EQ(rig.source_guest.throttled, 0U);
    EXPECT_TRUE(rig.source->resolve(resume));
    rig.wait();
    rig.expect_was_throttled();
    EXPECT_EQ(rig.source_guest.throttled, 0U);
    EXPECT_EQ(rig.world.source_runs(), resume);
  }
}

}  // namespace
}  // namespace vmm::migration
