#include "vmm/outgoing_snapshot.h"

#include <atomic>
#include <csignal>
#include <future>

#include "migration/tcp_channel.h"
#include "served_guest.h"
#include "snapshot_rig.h"
#include "vmm/snapshot_commands.h"

namespace vmm {
namespace {

namespace json = boost::json;
using migration::SnapshotReader;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Stops at the first write until it is let go.
class SlowCalls final : public migration::SnapshotCalls {
 public:
  ssize_t pwrite(int fd, std::span<const std::byte> data, off_t offset) override {
    if (!begun_.exchange(true)) {
      writing.set_value();
      let_go.get_future().wait();
    }
    return SnapshotCalls::pwrite(fd, data, offset);
  }

  std::promise<void> writing;
  std::promise<void> let_go;

 private:
  std::atomic<bool> begun_ = false;
};

class OutgoingSnapshotTest : public ::testing::Test {
 protected:
  void start_saving(bool stop = false) {
    const auto begun = guest_.call("snapshot.start", {{"to", path_.string()}, {"stop", stop}});
    ASSERT_TRUE(begun) << begun.error().message();
  }
  Result<json::value> ended() {
    return guest_.call_until("snapshot.progress", [](const auto& reply) {
      return !reply || !reply.value().as_object().contains("progress");
    });
  }
  Result<json::value> save(bool stop = false) {
    start_saving(stop);
    return ended();
  }
  GuestState state() {
    auto state = GuestState::kEnded;
    guest_.on_loop([&] { state = guest_.rig().guest.state(); });
    return state;
  }
  // Files in the folder.
  [[nodiscard]] std::vector<std::string> files() const {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(dir_.path())) {
      names.push_back(entry.path().filename().string());
    }
    return names;
  }
  // The disk is held by this guest.
  void add_disk(bool readonly) {
    guest_.config().disks = {
        {"root", images_.file("root.img", std::string(4096, 'x')), false, readonly, "r"}};
    guest_.resources() = GuestResources::open(guest_.config()).value();
  }

  TempDir dir_;
  TempDir images_;
  std::filesystem::path path_ = dir_ / "snap";
  SlowCalls slow_;
  ServedGuest guest_;
};

TEST_F(OutgoingSnapshotTest, SavesTheGuestAndLetsItGoOn) {
  auto& rig = guest_.rig();
  migration::ram_of(rig.machine->movable().memory())[12345] = std::byte{0x77};
  guest_.start();
  const auto saved = save();
  ASSERT_TRUE(saved) << saved.error().message();
  const auto& report = saved.value().at("report");
  EXPECT_EQ(report.at("bytes").to_number<std::uint64_t>(), std::filesystem::file_size(path_));
  EXPECT_GT(report.at("paused_ms").as_double(), 0);
  EXPECT_EQ(report.at("stopped"), false);
  EXPECT_THAT(std::string(saved.value().at("summary").as_string()), HasSubstr("paused for "));
  EXPECT_EQ(state(), GuestState::kRunning);
  EXPECT_THAT(rig.log, ElementsAre("new", "resume", "pause", "resume"));

  const auto reader = SnapshotReader::open(path_);
  ASSERT_TRUE(reader) << reader.error().message();
  EXPECT_EQ(reader.value().manifest().guest, "web");
  EXPECT_FALSE(reader.value().manifest().paused);
  EXPECT_EQ(reader.value().manifest().cpu_identity, rig.machine->movable().own_identity);
  EXPECT_TRUE(std::ranges::equal(reader.value().state(), rig.machine->movable().state));
  EXPECT_EQ(reader.value().pages(), 1U);
  EXPECT_TRUE(save()) << "and once more";
}

TEST_F(OutgoingSnapshotTest, AGuestThatIsPausedStaysSo) {
  ASSERT_TRUE(guest_.rig().guest.pause());
  guest_.start();
  ASSERT_TRUE(save());
  EXPECT_TRUE(SnapshotReader::open(path_).value().manifest().paused);
  EXPECT_EQ(state(), GuestState::kPaused);
}

TEST_F(OutgoingSnapshotTest, WithStopTheGuestEnds) {
  add_disk(false);
  guest_.start();
  const auto saved = save(true);
  ASSERT_TRUE(saved) << saved.error().message();
  EXPECT_EQ(saved.value().at("report").at("stopped"), true);
  EXPECT_THAT(std::string(saved.value().at("summary").as_string()), HasSubstr("and ended"));
  for (int tries = 0; tries < 2000 && state() != GuestState::kEnded; ++tries) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  EXPECT_EQ(state(), GuestState::kEnded);
  EXPECT_THAT(guest_.rig().log, ElementsAre("new", "resume", "pause", "gone"))
      << "it has not run any more";
  ASSERT_EQ(guest_.rig().ends.size(), 1U);
  EXPECT_TRUE(guest_.rig().ends[0]);
  const auto reader = SnapshotReader::open(path_);
  ASSERT_TRUE(reader) << reader.error().message();
  const auto disks = reader.value().disks();
  ASSERT_EQ(disks.size(), 1U);
  EXPECT_EQ(disks[0].id, "root");
}

TEST_F(OutgoingSnapshotTest, AGuestThatWritesToDisksIsSavedOnlyWithStop) {
  add_disk(false);
  guest_.start();
  expect_error(guest_.call("snapshot.start", {{"to", path_.string()}}), ErrorKind::kUsage,
               "web writes to disk root");
  EXPECT_EQ(state(), GuestState::kRunning);
  EXPECT_TRUE(files().empty());
}

TEST_F(OutgoingSnapshotTest, ADiskThatIsReadDoesNotMatter) {
  add_disk(true);
  guest_.start();
  const auto saved = save();
  ASSERT_TRUE(saved) << saved.error().message();
  EXPECT_TRUE(SnapshotReader::open(path_).value().disks().empty());
}

TEST_F(OutgoingSnapshotTest, BadParametersStartNothing) {
  guest_.start();
  expect_error(guest_.call("snapshot.start"), ErrorKind::kUsage, "to is missing");
  expect_error(guest_.call("snapshot.start", {{"to", "here"}}), ErrorKind::kUsage, "absolute");
  expect_error(guest_.call("snapshot.start", {{"to", dir_.path().string()}}), ErrorKind::kUsage,
               "no regular file");
  expect_error(guest_.call("snapshot.start", {{"to", path_.string()}, {"stop", 1}}),
               ErrorKind::kUsage, "stop is neither");
  expect_error(guest_.call("snapshot.progress"), ErrorKind::kFailed,
               "no snapshot of web was asked");
  expect_error(guest_.call("snapshot.cancel"), ErrorKind::kFailed, "no snapshot of web is being");
  EXPECT_TRUE(save()) << "the guest is not busy";
}

TEST_F(OutgoingSnapshotTest, AGuestWithAPerformanceMonitorIsNotSaved) {
  guest_.config().cpu.pmu = true;
  guest_.start();
  expect_error(guest_.call("snapshot.start", {{"to", path_.string()}}), ErrorKind::kUsage, "pmu");
}

// Which of the calls fails; 1 is the first write.
class FailingSnapshotTest : public OutgoingSnapshotTest,
                            public ::testing::WithParamInterface<bool> {};

INSTANTIATE_TEST_SUITE_P(All, FailingSnapshotTest, ::testing::Bool(),
                         [](const auto& test) { return test.param ? "stop" : "running"; });

TEST_P(FailingSnapshotTest, WhateverFailsTheGuestGoesOnAndTheOldFileStays) {
  add_disk(true);
  dir_.file("snap", "old");
  std::vector<std::unique_ptr<migration::FailingCalls>> calls;
  guest_.start();
  for (int failing = 1;; ++failing) {
    calls.push_back(std::make_unique<migration::FailingCalls>(failing, ENOSPC));
    guest_.on_loop([&] { guest_.snapshot().set_calls(*calls.back()); });
    const auto saved = save(GetParam());
    if (saved) {
      EXPECT_LT(calls.back()->calls(), failing) << "a failure was overlooked";
      break;
    }
    expect_error(saved, ErrorKind::kFailed, "No space left on device");
    EXPECT_EQ(state(), GuestState::kRunning) << failing;
    EXPECT_EQ(contents_of(path_), "old") << failing;
    EXPECT_THAT(files(), ElementsAre("snap")) << failing;
  }
  EXPECT_GT(calls.size(), 8U);
  EXPECT_TRUE(SnapshotReader::open(path_));
}

TEST_F(OutgoingSnapshotTest, ACancelledOneLeavesTheGuestAsItWas) {
  dir_.file("snap", "old");
  guest_.snapshot().set_calls(slow_);
  guest_.start();
  start_saving(true);
  slow_.writing.get_future().wait();
  EXPECT_EQ(state(), GuestState::kHandover);
  expect_error(guest_.call("snapshot.start", {{"to", path_.string()}}), ErrorKind::kFailed,
               "stands still for a snapshot");
  expect_error(guest_.call("migration.start", {{"to", "127.0.0.1:1"}, {"plaintext", true}}),
               ErrorKind::kFailed, "stands still for a snapshot");
  ASSERT_TRUE(guest_.call("snapshot.cancel"));
  slow_.let_go.set_value();
  expect_error(ended(), ErrorKind::kInterrupted, "the snapshot was cancelled");
  EXPECT_EQ(state(), GuestState::kRunning);
  EXPECT_EQ(contents_of(path_), "old");
  EXPECT_THAT(files(), ElementsAre("snap"));
}

TEST_F(OutgoingSnapshotTest, OneThatNobodyWaitsForIsCancelled) {
  guest_.snapshot().set_calls(slow_);
  guest_.start();
  start_saving(true);
  slow_.writing.get_future().wait();
  guest_.on_loop([&] { guest_.snapshot().set_patience(std::chrono::milliseconds(1)); });
  ASSERT_TRUE(guest_.call("snapshot.progress"));
  // The loop comes to its timers before it is idle again.
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  for (int turn = 0; turn < 3; ++turn) guest_.on_loop([] {});
  slow_.let_go.set_value();
  expect_error(ended(), ErrorKind::kInterrupted, "the snapshot was cancelled");
  EXPECT_EQ(state(), GuestState::kRunning);
  EXPECT_TRUE(files().empty());
}

TEST_F(OutgoingSnapshotTest, WhileAGuestMovesItIsNotSaved) {
  const auto silent = migration::TcpListener::listen({"127.0.0.1", 0}).value();
  guest_.start();
  ASSERT_TRUE(
      guest_.call("migration.start", {{"to", silent.address().text()}, {"plaintext", true}}));
  expect_error(guest_.call("snapshot.start", {{"to", path_.string()}}), ErrorKind::kFailed,
               "busy with a migration");
}

TEST_F(OutgoingSnapshotTest, AKillWaitsForNothingThatCanBeCancelled) {
  guest_.snapshot().set_calls(slow_);
  guest_.start();
  start_saving();
  slow_.writing.get_future().wait();
  guest_.on_loop(
      [&] { ASSERT_TRUE(guest_.rig().guest.kill(make_error(ErrorKind::kFailed, "killed"))); });
  slow_.let_go.set_value();
  expect_error(ended(), ErrorKind::kInterrupted, "the snapshot was cancelled");
  EXPECT_EQ(state(), GuestState::kEnded);
}

TEST_F(OutgoingSnapshotTest, TheCommandSaysHowItWent) {
  guest_.start();
  ::testing::internal::CaptureStdout();
  const auto saved = snapshot_guest({"web", path_, false});
  ::fflush(stdout);
  EXPECT_THAT(::testing::internal::GetCapturedStdout(),
              HasSubstr("web saved to " + path_.string() + ": "));
  ASSERT_TRUE(saved) << saved.error().message();
  EXPECT_TRUE(SnapshotReader::open(path_));
  for (const int signal : {SIGINT, SIGTERM}) ::signal(signal, SIG_DFL);
}

TEST(SnapshotCommandTest, AnInterruptCancelsIt) {
  const CommandFolders folders;
  FakeGuestServer server(folders);
  bool cancelled = false;
  json::object asked;
  server.on("snapshot.start", [&](const json::object& params) -> Result<json::value> {
    asked = params;
    return json::value(json::object());
  });
  server.on("snapshot.progress", [&](const json::object&) -> Result<json::value> {
    if (cancelled) return fail(ErrorKind::kInterrupted, "the snapshot was cancelled");
    ::raise(SIGINT);
    return json::value{{"progress", json::object{{"done_bytes", 1}, {"bytes", 2}}}};
  });
  server.on("snapshot.cancel", [&](const json::object&) -> Result<json::value> {
    cancelled = true;
    return json::value(json::object());
  });
  server.start();
  const auto saved = snapshot_guest({"", "snap", true});
  for (const int signal : {SIGINT, SIGTERM}) ::signal(signal, SIG_DFL);
  expect_error(saved, ErrorKind::kInterrupted, "the snapshot was cancelled");
  EXPECT_EQ(asked["to"], json::value(std::filesystem::absolute("snap").string()));
  EXPECT_EQ(asked["stop"], true);
}

}  // namespace
}  // namespace vmm
