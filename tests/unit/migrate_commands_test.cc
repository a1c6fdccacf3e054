#include "vmm/migrate_commands.h"

#include <signal.h>

#include <boost/json/parse.hpp>

#include <atomic>
#include <vector>

#include "fake_guest_server.h"
#include "migration/decision_record.h"

namespace vmm {
namespace {

namespace json = boost::json;
using migration::DecisionRecords;
using migration::MigrationId;
using migration::Outcome;
using migration::SourceOutcome;
using ::testing::HasSubstr;

constexpr const char* kId = "00112233445566778899aabbccddeeff";

json::value progress(std::string_view phase, int round) {
  return {{"progress", json::object{{"phase", phase},
                                    {"round", round},
                                    {"migration_id", kId},
                                    {"line", fmt::format("{} {}", phase, round)}}}};
}

// A guest whose migration goes as `replies` say, the last one again and again.
class MigrateCommandTest : public ::testing::Test {
 protected:
  ~MigrateCommandTest() override {
    for (const int signal : {SIGINT, SIGTERM}) ::signal(signal, SIG_DFL);
  }
  void serve(std::vector<Result<json::value>> replies) {
    server_.on("migration.start", [this](const json::object& params) -> Result<json::value> {
      params_ = params;
      return json::value{{"migration_id", kId}};
    });
    server_.on("migration.progress",
               [this, replies = std::move(replies)](const json::object&) -> Result<json::value> {
                 if (on_progress_) on_progress_();
                 if (cancelled_) {
                   return fail(ErrorKind::kInterrupted, "the migration was cancelled");
                 }
                 return replies[std::min(asked_++, replies.size() - 1)];
               });
    server_.on("migration.cancel", [this](const json::object&) -> Result<json::value> {
      cancelled_ = true;
      return json::value(json::object());
    });
    server_.start();
  }
  // Runs the command; what it has printed is in out_ and err_.
  Result<> migrate(MigrateOptions options = {}) {
    options.to = "there:1";
    ::testing::internal::CaptureStdout();
    ::testing::internal::CaptureStderr();
    auto result = migrate_guest(options);
    ::fflush(stdout);
    out_ = ::testing::internal::GetCapturedStdout();
    err_ = ::testing::internal::GetCapturedStderr();
    return result;
  }
  [[nodiscard]] json::object printed() const { return json::parse(out_).as_object(); }
  void keep_record(SourceOutcome outcome) {
    auto records = DecisionRecords::open(folders_.records());
    ASSERT_TRUE(records) << records.error().message();
    ASSERT_TRUE(
        records.value().put({MigrationId::parse(kId).value(), "web", "there:1", outcome, 1}));
  }

  CommandFolders folders_;
  FakeGuestServer server_{folders_};
  std::function<void()> on_progress_;
  std::size_t asked_ = 0;
  std::atomic<bool> cancelled_ = false;
  json::object params_;
  std::string out_;
  std::string err_;
};

MigrateOptions with_json() {
  MigrateOptions options;
  options.json = true;
  return options;
}

TEST_F(MigrateCommandTest, PrintsALineForEachPhaseAndRoundAndThenTheSummary) {
  serve({progress("precopy", 1), progress("precopy", 1), progress("precopy", 2),
         progress("stopped", 2),
         json::value{{"report", json::object()}, {"summary", "it has moved\n"}}});
  const auto result = migrate();
  ASSERT_TRUE(result) << result.error().message();
  EXPECT_EQ(err_, "precopy 1\nprecopy 2\nstopped 2\n");
  EXPECT_EQ(out_, "it has moved\n");
}

TEST_F(MigrateCommandTest, JsonEndsWithTheReport) {
  serve({json::value{{"report", json::object{{"result", "migrated"}}}, {"summary", "no"}}});
  on_progress_ = [this] { server_.end_soon(); };
  ASSERT_TRUE(migrate(with_json()));
  EXPECT_EQ(out_, "{\"result\":\"migrated\"}\n");
}

TEST_F(MigrateCommandTest, OutlastsTheProcessThatTheGuestHasLeft) {
  serve({json::value{{"report", json::object{{"result", "migrated"}}}, {"summary", "moved"}}});
  on_progress_ = [this] { server_.end_soon(); };
  ASSERT_TRUE(migrate());
  EXPECT_TRUE(server_.ended());
}

TEST_F(MigrateCommandTest, OptionsAreSentInTheUnitsOfTheProtocol) {
  serve({json::value{{"report", json::object()}, {"summary", ""}}});
  MigrateOptions options;
  options.downtime_limit_ms = 7;
  options.bandwidth_mib = 3;
  options.timeout_s = 5;
  options.peer_timeout_s = 2;
  options.channels = 4;
  options.max_rounds = 9;
  options.max_throttle = 80;
  options.control_run_mib = 1;
  options.on_timeout = "stop-and-copy";
  options.dirty_log = "wp";
  options.verify = options.connection.plaintext = true;
  options.connection.tls_dir = "/keys";
  options.peer_name = "host2";
  ASSERT_TRUE(migrate(options));
  const json::value expected{
      {"to", "there:1"},        {"dirty_log", "wp"},    {"on_timeout", "stop-and-copy"},
      {"require_hw", false},    {"verify", true},       {"plaintext", true},
      {"downtime_limit_ms", 7}, {"bandwidth", 3 << 20}, {"channels", 4},
      {"max_rounds", 9},        {"timeout_ms", 5000},   {"peer_timeout_ms", 2000},
      {"control_run", 1 << 20}, {"max_throttle", 80},   {"tls_dir", "/keys"},
      {"peer_name", "host2"}};
  EXPECT_EQ(json::value(params_), expected);
  ASSERT_TRUE(migrate());
  EXPECT_FALSE(params_.contains("bandwidth")) << "what is not given is the process's to choose";
}

TEST_F(MigrateCommandTest, JsonEndsWithAnObjectAlsoWhereItDoesNotBegin) {
  server_.on("migration.start", [](const json::object&) -> Result<json::value> {
    return fail(ErrorKind::kUsage, "to is nowhere");
  });
  server_.start();
  expect_error(migrate(with_json()), ErrorKind::kUsage, "to is nowhere");
  const json::value expected{
      {"result", "failed"}, {"migration_id", nullptr}, {"error", "to is nowhere"}};
  EXPECT_EQ(json::value(printed()), expected);
  expect_error(migrate(), ErrorKind::kUsage, "to is nowhere");
  EXPECT_EQ(out_, "");
}

TEST_F(MigrateCommandTest, AMigrationThatFailsIsToldWithItsExitCode) {
  serve({progress("precopy", 1), fail(ErrorKind::kMigration, "lost; the guest runs on here")});
  expect_error(migrate(with_json()), ErrorKind::kMigration, "the guest runs on here");
  EXPECT_EQ(printed()["result"], "failed");
  EXPECT_EQ(printed()["migration_id"], kId);
  EXPECT_EQ(printed()["error"], "lost; the guest runs on here");
}

TEST_F(MigrateCommandTest, AnInterruptCancelsAndIsTheExitCode) {
  serve({progress("precopy", 1)});
  on_progress_ = [] { ::raise(SIGINT); };
  expect_error(migrate(with_json()), ErrorKind::kInterrupted, "cancelled");
  EXPECT_TRUE(cancelled_);
  EXPECT_EQ(printed()["result"], "cancelled");
}

TEST_F(MigrateCommandTest, AnInterruptWhileAReplyIsWaitedForCancelsToo) {
  serve({progress("precopy", 1)});
  on_progress_ = [command = ::pthread_self()] {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));  // by now it waits
    ::pthread_kill(command, SIGINT);
  };
  expect_error(migrate(), ErrorKind::kInterrupted, "cancelled");
  EXPECT_TRUE(cancelled_);
}

TEST_F(MigrateCommandTest, WhatSomebodyElseCancelsHasFailed) {
  serve({progress("precopy", 1)});
  on_progress_ = [this] { cancelled_ = true; };
  expect_error(migrate(with_json()), ErrorKind::kMigration, "cancelled");
  EXPECT_EQ(printed()["result"], "cancelled");
}

TEST_F(MigrateCommandTest, ADoubtThatLastsIsToldWithWhatToDo) {
  serve({progress("committed", 3), progress("in doubt", 3)});
  auto options = with_json();
  options.doubt_tolerated = std::chrono::milliseconds(200);
  const auto result = migrate(options);
  expect_error(result, ErrorKind::kInDoubt, fmt::format("vmm migration status {}", kId));
  expect_error(result, ErrorKind::kInDoubt, fmt::format("vmm migration resolve {}", kId));
  EXPECT_EQ(printed()["result"], "in-doubt");
}

TEST_F(MigrateCommandTest, ADoubtThatPassesIsNone) {
  serve({progress("in doubt", 3), progress("in doubt", 3),
         json::value{{"report", json::object()}, {"summary", "moved"}}});
  EXPECT_TRUE(migrate());
}

TEST_F(MigrateCommandTest, AProcessThatDiesWithoutARecordHasEndedHere) {
  serve({progress("precopy", 1)});
  on_progress_ = [this] { server_.die(); };
  expect_error(migrate(), ErrorKind::kFailed, "");
}

TEST_F(MigrateCommandTest, AProcessThatDiesBehindTheCommitLeavesADoubt) {
  serve({progress("committed", 1)});
  keep_record(SourceOutcome::kCommitted);
  on_progress_ = [this] {
    if (asked_ == 1) server_.die();
  };
  const auto result = migrate(with_json());
  expect_error(result, ErrorKind::kInDoubt, fmt::format("vmm migration status {} at there:1", kId));
  EXPECT_EQ(printed()["result"], "in-doubt");
}

TEST_F(MigrateCommandTest, AProcessThatDiesWhenTheGuestHasGoneSaysWhereTo) {
  serve({progress("done", 1)});
  keep_record(SourceOutcome::kDone);
  on_progress_ = [this] {
    if (asked_ == 1) server_.die();
  };
  expect_error(migrate(), ErrorKind::kFailed, "web has moved to there:1");
}

TEST_F(MigrateCommandTest, NoGuestIsNoMigration) {
  MigrateOptions options;
  options.name = "nobody";
  expect_error(migrate(options), ErrorKind::kNoSuchGuest, "nobody");
  expect_error(cancel_migration("nobody"), ErrorKind::kNoSuchGuest, "nobody");
}

// --- migration status and resolve ---

class MigrationRecordsTest : public MigrateCommandTest {
 protected:
  // What status prints.
  Result<std::string> status(bool as_json = false) {
    ::testing::internal::CaptureStdout();
    const auto result = print_migration_status(kId, as_json);
    ::fflush(stdout);
    auto text = ::testing::internal::GetCapturedStdout();
    if (!result) return fail(result.error());
    return text;
  }
  void decide(Outcome outcome) {
    auto records = DecisionRecords::open(folders_.records());
    ASSERT_TRUE(records);
    ASSERT_TRUE(records.value().decide(MigrationId::parse(kId).value(), outcome, 1));
  }
  [[nodiscard]] std::optional<Outcome> decided() const {
    const auto records = DecisionRecords::open(folders_.records());
    const auto found = records.value().lookup(MigrationId::parse(kId).value());
    return found.value() ? std::optional(found.value()->outcome) : std::nullopt;
  }
};

TEST_F(MigrationRecordsTest, StatusSaysWhatEitherSideKnows) {
  expect_error(status(), ErrorKind::kFailed, fmt::format("no record of migration {}", kId));
  decide(Outcome::kStarted);
  EXPECT_EQ(status().value(), "came here: started\n");
  keep_record(SourceOutcome::kInDoubt);
  EXPECT_EQ(status().value(), "came here: started\nleft here: web, to there:1: in-doubt\n");
  const json::value expected{
      {"migration_id", kId},
      {"destination", "started"},
      {"source", {{"guest", "web"}, {"to", "there:1"}, {"outcome", "in-doubt"}}}};
  EXPECT_EQ(json::parse(status(true).value()), expected);
  expect_error(print_migration_status("12", false), ErrorKind::kUsage, "12");
}

TEST_F(MigrationRecordsTest, ResolveAsksTheGuestThatWaits) {
  json::object asked;
  server_.on("migration.resolve", [&](const json::object& params) -> Result<json::value> {
    asked = params;
    return json::value(json::object());
  });
  server_.start();
  EXPECT_TRUE(resolve_migration(kId, true));
  EXPECT_EQ(json::value(asked), (json::value{{"id", kId}, {"resume", true}}));
  EXPECT_TRUE(resolve_migration(kId, false));
  EXPECT_EQ(asked["resume"], false);
  EXPECT_EQ(decided(), std::nullopt) << "the destination's records are not those of a source";
}

TEST_F(MigrationRecordsTest, WhatTheGuestThatWaitsObjectsIsTheError) {
  server_.on("migration.resolve", [](const json::object&) -> Result<json::value> {
    return fail(ErrorKind::kFailed, "disk root is locked");
  });
  server_.start();
  expect_error(resolve_migration(kId, true), ErrorKind::kFailed, "web: disk root is locked");
  expect_error(resolve_migration(kId, false), ErrorKind::kFailed, "web: disk root is locked");
  EXPECT_EQ(decided(), std::nullopt);
}

TEST_F(MigrationRecordsTest, WhereNoGuestWaitsDiscardKeepsItFromStartingHere) {
  server_.on("migration.resolve", [](const json::object&) -> Result<json::value> {
    return fail(ErrorKind::kNoSuchGuest, "web has no migration");
  });
  server_.start();
  expect_error(resolve_migration(kId, true), ErrorKind::kNoSuchGuest, kId);
  EXPECT_EQ(decided(), std::nullopt);
  EXPECT_TRUE(resolve_migration(kId, false));
  EXPECT_EQ(decided(), Outcome::kDiscarded);
}

TEST_F(MigrationRecordsTest, AGuestThatHasStartedHereIsNotDiscarded) {
  server_.on("migration.resolve", [](const json::object&) -> Result<json::value> {
    return fail(ErrorKind::kNoSuchGuest, "web has no migration");
  });
  server_.start();
  decide(Outcome::kStarted);
  expect_error(resolve_migration(kId, false), ErrorKind::kFailed, "has started here");
  EXPECT_EQ(decided(), Outcome::kStarted);
}

}  // namespace
}  // namespace vmm
