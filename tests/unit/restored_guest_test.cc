#include "vmm/restored_guest.h"

#include <thread>

#include "guest_rig.h"
#include "memory/userfault.h"
#include "snapshot_rig.h"

namespace vmm {
namespace {

using migration::SnapshotRig;
using ::testing::ElementsAre;

class RestoredGuestTest : public ::testing::Test {
 protected:
  // The memory of the fake machine.
  static constexpr std::uint64_t kBytes = 2 << 20;

  Result<> start() {
    saved.save();
    EXPECT_TRUE(rig.guest.start_incoming());
    return restored.start(saved.reader());
  }
  void poll_until_loaded() {
    for (int tries = 0; tries < 2000; ++tries) {
      rig.poll();
      if (rig.guest.state() == GuestState::kEnded) return;
      if (rig.guest.begin_task("a test", [] {})) {
        rig.guest.end_task();
        return;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    FAIL() << "not loaded";
  }
  [[nodiscard]] GuestMemory& memory() { return rig.machine->movable().memory(); }

  SnapshotRig saved{kBytes};
  GuestRig rig;
  std::vector<std::string> damage;
  RestoredGuest restored{rig.loop, rig.guest,
                         [this](const Error& error) { damage.push_back(error.message()); }};
};

TEST_F(RestoredGuestTest, RunsWithItsStateAndMemory) {
  const auto started = start();
  ASSERT_TRUE(started) << started.error().message();
  auto& machine = rig.machine->movable();
  EXPECT_EQ(machine.state, saved.contents.state);
  EXPECT_EQ(machine.stood_still, std::chrono::nanoseconds(0));
  EXPECT_TRUE(machine.announced);
  EXPECT_EQ(rig.guest.state(), GuestState::kRunning);
  EXPECT_THAT(rig.log, ElementsAre("new", "release", "resume"));
  EXPECT_TRUE(std::ranges::equal(migration::ram_of(memory()), migration::ram_of(saved.memory)));
  poll_until_loaded();
  EXPECT_TRUE(damage.empty());
}

TEST_F(RestoredGuestTest, OneThatWasPausedStaysSo) {
  saved.contents.manifest.paused = true;
  ASSERT_TRUE(start());
  EXPECT_EQ(rig.guest.state(), GuestState::kPaused);
  poll_until_loaded();
  EXPECT_TRUE(rig.guest.resume());
}

TEST_F(RestoredGuestTest, NothingElseHappensToItBeforeItIsLoaded) {
  ASSERT_TRUE(start());
  // The loop has not run, so that nobody can have said that it is loaded.
  expect_error(rig.guest.begin_task("a migration", [] {}), ErrorKind::kFailed,
               "busy with loading its snapshot");
  poll_until_loaded();
}

TEST_F(RestoredGuestTest, OneThatRebootsMeanwhileNeedsNoneOfIt) {
  ASSERT_TRUE(start());
  rig.handlers.back()(GuestEvent::kReset);
  poll_until_loaded();
  EXPECT_EQ(rig.guest.reboots(), 1U);
  EXPECT_EQ(rig.guest.state(), GuestState::kRunning);
  EXPECT_EQ(migration::ram_of(memory())[0], std::byte{0}) << "a new machine";
}

TEST_F(RestoredGuestTest, OneThatIsKilledMeanwhileEnds) {
  ASSERT_TRUE(start());
  ASSERT_TRUE(rig.guest.kill(make_error(ErrorKind::kFailed, "killed")));
  poll_until_loaded();
  EXPECT_EQ(rig.guest.state(), GuestState::kEnded);
}

TEST_F(RestoredGuestTest, AStateThatDoesNotFitIsAnError) {
  saved.save();
  ASSERT_TRUE(rig.guest.start_incoming());
  rig.machine->movable().restore_fails = true;
  expect_error(restored.start(saved.reader()), ErrorKind::kHost, "the state does not fit");
  EXPECT_EQ(rig.guest.state(), GuestState::kIncoming);
}

TEST_F(RestoredGuestTest, DamagedMemoryIsTold) {
  const auto userfault = Userfault::open();
  saved.save();
  saved.flip(migration::kSnapshotHeaderBytes + 5);
  ASSERT_TRUE(rig.guest.start_incoming());
  const auto started = restored.start(saved.reader());
  if (!userfault) {
    // All of it is loaded first.
    expect_error(started, ErrorKind::kFailed, "guest memory at offset 4096 is damaged");
    return;
  }
  memory().keep(nullptr);      // waits for the loader
  if (damage.empty()) return;  // it was ended before it came to that
  EXPECT_THAT(damage, ElementsAre(::testing::HasSubstr("guest memory at offset 4096 is damaged")));
}

}  // namespace
}  // namespace vmm
