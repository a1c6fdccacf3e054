#include "vmm/outgoing_migration.h"

#include <utility>
#include <vector>

#include "migration/tcp_channel.h"
#include "served_guest.h"

namespace vmm {
namespace {

namespace json = boost::json;

class OutgoingMigrationTest : public ::testing::Test {
 protected:
  // Parameters that are right, with these besides.
  [[nodiscard]] json::object params(const json::object& more = {}) const {
    json::object all{
        {"to", silent_.address().text()}, {"plaintext", true}, {"peer_timeout_ms", 500}};
    for (const auto& [key, value] : more) all[key] = value;
    return all;
  }
  Result<json::value> ended() {
    return guest_.call_until("migration.progress", [](const auto& reply) {
      return !reply || !reply.value().as_object().contains("progress");
    });
  }
  GuestState state() {
    auto state = GuestState::kEnded;
    guest_.on_loop([&] { state = guest_.rig().guest.state(); });
    return state;
  }

  // Listens and never answers: a migration to it stays in its first phase.
  migration::TcpListener silent_ = migration::TcpListener::listen({"127.0.0.1", 0}).value();
  ServedGuest guest_;
};

TEST_F(OutgoingMigrationTest, BadParametersAreNamedAndStartNothing) {
  guest_.start();
  const std::vector<std::pair<json::object, const char*>> cases{
      {{{"to", nullptr}}, "to is missing"},
      {{{"to", 4444}}, "to is not a string"},
      {{{"to", "nowhere"}}, "'nowhere' is not an address"},
      {{{"to", "host:99999"}}, "'host:99999' is not an address"},
      {{{"plaintext", false}}, "--plaintext"},
      {{{"plaintext", 1}}, "plaintext is neither"},
      {{{"downtime_limit_ms", -1}}, "downtime_limit_ms"},
      {{{"bandwidth", "fast"}}, "bandwidth"},
      {{{"channels", 0}}, "0 channels: give 1 to 16"},
      {{{"channels", 17}}, "17 channels: give 1 to 16"},
      {{{"max_rounds", 0}}, "max_rounds is 0"},
      {{{"max_rounds", std::uint64_t{1} << 32}}, "max_rounds is 4294967296"},
      {{{"max_throttle", 100}}, "max_throttle is 100 %: give 0 to 99"},
      {{{"max_throttle", -1}}, "max_throttle"},
      {{{"timeout_ms", true}}, "timeout_ms"},
      {{{"timeout_ms", UINT64_MAX}}, "timeout_ms"},
      {{{"on_timeout", "hope"}}, "on_timeout is \"hope\""},
      {{{"peer_timeout_ms", 99}}, "peer timeout of 99 ms"},
      {{{"dirty_log", "fast"}}, "dirty_log is \"fast\""},
      {{{"require_hw", "yes"}}, "require_hw is neither"},
      {{{"require_hw", true}, {"dirty_log", "wp"}}, "require_hw asks for hardware"},
      {{{"verify", 1}}, "verify is neither"},
      {{{"control_run", -1}}, "control_run"},
  };
  for (const auto& [more, words] : cases) {
    expect_error(guest_.call("migration.start", params(more)), ErrorKind::kUsage, words);
  }
  expect_error(guest_.call("migration.progress"), ErrorKind::kFailed, "web has not been migrating");
  expect_error(guest_.call("migration.cancel"), ErrorKind::kFailed, "web is not migrating");
  EXPECT_EQ(state(), GuestState::kRunning);
}

TEST_F(OutgoingMigrationTest, AGuestThatCannotMoveIsNotBusyAfterwards) {
  guest_.config().cpu.pmu = true;
  guest_.start();
  for (int tries = 0; tries < 2; ++tries) {
    expect_error(guest_.call("migration.start", params()), ErrorKind::kMigration,
                 "web cannot move: the state of CPU feature pmu");
  }
}

TEST_F(OutgoingMigrationTest, OneMigrationAtATime) {
  guest_.start();
  ASSERT_TRUE(guest_.call("migration.start", params()));
  expect_error(guest_.call("migration.start", params()), ErrorKind::kFailed,
               "web is already migrating to " + silent_.address().text());
}

TEST_F(OutgoingMigrationTest, ProgressHasAPhaseFromTheStart) {
  guest_.start();
  const auto started = guest_.call("migration.start", params());
  ASSERT_TRUE(started) << started.error().message();
  const auto reply = guest_.call("migration.progress");
  ASSERT_TRUE(reply) << reply.error().message();
  const auto& progress = reply.value().at("progress");
  EXPECT_EQ(progress.at("phase"), "connecting");
  EXPECT_EQ(progress.at("migration_id"), started.value().at("migration_id"));
  EXPECT_EQ(progress.at("to"), json::value(silent_.address().text()));
  EXPECT_THAT(std::string(progress.at("line").as_string()), ::testing::StartsWith("connecting: "));
}

TEST_F(OutgoingMigrationTest, CancelLeavesTheGuestRunning) {
  guest_.start();
  ASSERT_TRUE(guest_.call("migration.start", params()));
  ASSERT_TRUE(guest_.call("migration.cancel"));
  expect_error(ended(), ErrorKind::kInterrupted, "cancelled; the guest runs on here");
  EXPECT_EQ(state(), GuestState::kRunning);
  EXPECT_TRUE(guest_.call("migration.start", params())) << "it may try again";
}

TEST_F(OutgoingMigrationTest, NobodyThereIsAFailedMigration) {
  const auto nobody = migration::TcpListener::listen({"127.0.0.1", 0}).value().address().text();
  guest_.start();
  ASSERT_TRUE(guest_.call("migration.start", params({{"to", nobody}})));
  const auto failed = ended();
  expect_error(failed, ErrorKind::kMigration, nobody);
  expect_error(failed, ErrorKind::kMigration, "; the guest runs on here");
  EXPECT_EQ(state(), GuestState::kRunning);
}

TEST_F(OutgoingMigrationTest, AGuestThatShutsDownEndsItsMigration) {
  guest_.start();
  ASSERT_TRUE(guest_.call("migration.start", params()));
  guest_.rig().handlers.back()(GuestEvent::kShutdown);
  for (int tries = 0; tries < 2000 && state() != GuestState::kEnded; ++tries) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  EXPECT_EQ(state(), GuestState::kEnded);
}

TEST_F(OutgoingMigrationTest, AMigrationThatIsNotInDoubtIsNotResolved) {
  guest_.start();
  expect_error(guest_.call("migration.resolve", {{"id", "x"}}), ErrorKind::kNoSuchGuest,
               "web has no migration x");
  const auto started = guest_.call("migration.start", params());
  ASSERT_TRUE(started);
  expect_error(guest_.call("migration.resolve", {{"resume", true}}), ErrorKind::kNoSuchGuest,
               "without an id");
  expect_error(guest_.call("migration.resolve",
                           {{"id", started.value().at("migration_id")}, {"resume", true}}),
               ErrorKind::kFailed, "not in doubt: connecting");
}

TEST_F(OutgoingMigrationTest, AProcessThatEndsDoesNotWaitForThePeer) {
  guest_.start();
  ASSERT_TRUE(guest_.call("migration.start", params({{"peer_timeout_ms", 600'000}})));
  guest_.stop();  // the migration goes with the guest
}

}  // namespace
}  // namespace vmm
