#include <boost/json/serialize.hpp>

#include "migration/tcp_channel.h"
#include "served_guest.h"

namespace vmm {
namespace {

namespace json = boost::json;

bool is_done(const Result<json::value>& reply) {
  return reply && reply.value().as_object().contains("done") && reply.value().at("done").as_bool();
}

class DirtyRateMeterTest : public ::testing::Test {
 protected:
  // Logging, as the machine's log has it.
  bool logging() {
    bool on = false;
    guest_.on_loop([&] { on = guest_.log().on; });
    return on;
  }
  // No task is left: another measurement could start.
  void expect_idle() {
    std::optional<Result<MovableMachine*>> begun;
    guest_.on_loop([&] {
      begun = guest_.rig().guest.begin_task("a test", [] {});
      if (*begun) guest_.rig().guest.end_task();
    });
    EXPECT_TRUE(*begun) << begun->error().message();
    EXPECT_FALSE(logging());
  }

  ServedGuest guest_;
};

TEST_F(DirtyRateMeterTest, AMeasurementIsStartedAndAskedForUntilItIsDone) {
  guest_.start();
  ASSERT_TRUE(guest_.call("dirty_rate.start", {{"period_ms", 20}, {"interval_ms", 10}}));
  const auto rate = guest_.call_until("dirty_rate.get", is_done);
  ASSERT_TRUE(is_done(rate));
  const auto& object = rate.value().as_object();
  for (const auto* key : {"mode", "period_ms", "interval_ms", "begun", "measured_ms", "intervals",
                          "pages_per_s", "bytes_per_s", "unique_pages", "done"}) {
    EXPECT_TRUE(object.contains(key)) << key;
  }
  EXPECT_EQ(object.at("mode"), "hw");
  EXPECT_EQ(object.at("period_ms"), 20);
  EXPECT_EQ(object.at("interval_ms"), 10);
  expect_idle();
  EXPECT_TRUE(is_done(guest_.call("dirty_rate.get"))) << "the result stays";
}

TEST_F(DirtyRateMeterTest, TheIntervalIsNoLongerThanThePeriod) {
  guest_.start();
  ASSERT_TRUE(guest_.call("dirty_rate.start", {{"period_ms", 20}}));
  const auto rate = guest_.call_until("dirty_rate.get", is_done);
  ASSERT_TRUE(is_done(rate));
  EXPECT_EQ(rate.value().at("interval_ms"), 20);
}

TEST_F(DirtyRateMeterTest, BadParametersAreNamedAndStartNothing) {
  guest_.start();
  for (const auto& [params, words] : std::vector<std::pair<json::object, const char*>>{
           {{{"period_ms", 0}}, "period of 0 ms"},
           {{{"period_ms", 3'600'001}}, "period of 3600001 ms"},
           {{{"period_ms", "x"}}, "period_ms"},
           {{{"period_ms", 10}, {"interval_ms", 11}}, "interval of 11 ms"},
           {{{"interval_ms", 0}}, "interval of 0 ms"},
           {{{"dirty_log", "fast"}}, "not auto, hw or wp"}}) {
    expect_error(guest_.call("dirty_rate.start", params), ErrorKind::kUsage, words);
  }
  expect_error(guest_.call("dirty_rate.get"), ErrorKind::kFailed, "no dirty rate");
  expect_idle();
}

TEST_F(DirtyRateMeterTest, AModeThatTheHostHasNotIsRefused) {
  guest_.log().hardware = false;
  guest_.start();
  expect_error(guest_.call("dirty_rate.start", {{"dirty_log", "hw"}}), ErrorKind::kHost,
               "no hardware dirty logging");
  expect_idle();
}

TEST_F(DirtyRateMeterTest, ASecondMeasurementIsRefusedWhileOneRuns) {
  guest_.start();
  ASSERT_TRUE(guest_.call("dirty_rate.start", {{"period_ms", 3'600'000}}));
  expect_error(guest_.call("dirty_rate.start"), ErrorKind::kFailed, "measuring its dirty rate");
  const auto running = guest_.call("dirty_rate.get");
  ASSERT_TRUE(running) << running.error().message();
  EXPECT_EQ(running.value().at("done"), false);
  ASSERT_TRUE(guest_.call("dirty_rate.stop"));
  expect_idle();
  ASSERT_TRUE(guest_.call("dirty_rate.stop")) << "nothing is left to stop";
  EXPECT_TRUE(is_done(guest_.call("dirty_rate.get")));
}

TEST_F(DirtyRateMeterTest, AFailedLogIsTheAnswer) {
  guest_.log().broken = true;
  guest_.start();
  ASSERT_TRUE(guest_.call("dirty_rate.start", {{"period_ms", 20}}));
  const auto failed = guest_.call_until("dirty_rate.get", [](const auto& reply) { return !reply; });
  expect_error(failed, ErrorKind::kHost, "the log is broken");
  guest_.on_loop([] {});
  expect_idle();
}

TEST_F(DirtyRateMeterTest, AGuestThatShutsDownDoesNotWaitForIt) {
  guest_.start();
  ASSERT_TRUE(guest_.call("dirty_rate.start", {{"period_ms", 3'600'000}}));
  guest_.rig().handlers.back()(GuestEvent::kShutdown);
  auto state = GuestState::kRunning;
  for (int tries = 0; tries < 2000 && state != GuestState::kEnded; ++tries) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    guest_.on_loop([&] { state = guest_.rig().guest.state(); });
  }
  EXPECT_EQ(state, GuestState::kEnded);
  expect_error(guest_.call("dirty_rate.start"), ErrorKind::kFailed, "has ended");
}

TEST_F(DirtyRateMeterTest, AMigrationEndsTheMeasurementAndAnswersInItsPlace) {
  // Somebody who listens but does not answer keeps the migration in its first phase.
  auto silent = migration::TcpListener::listen({"127.0.0.1", 0});
  ASSERT_TRUE(silent) << silent.error().message();
  guest_.start();
  ASSERT_TRUE(guest_.call("dirty_rate.start", {{"period_ms", 3'600'000}}));
  const auto started = guest_.call(
      "migration.start",
      {{"to", silent.value().address().text()}, {"plaintext", true}, {"peer_timeout_ms", 1000}});
  ASSERT_TRUE(started) << started.error().message();
  EXPECT_FALSE(logging());
  for (const auto* method : {"dirty_rate.start", "dirty_rate.get"}) {
    const auto reply = guest_.call(method);
    ASSERT_TRUE(reply) << reply.error().message();
    const auto& migration = reply.value().at("migration");
    EXPECT_EQ(migration.at("phase"), "connecting");
    EXPECT_EQ(migration.at("migration_id"), started.value().at("migration_id"));
  }
  ASSERT_TRUE(guest_.call("migration.cancel"));
  static_cast<void>(
      guest_.call_until("migration.progress", [](const auto& reply) { return !reply; }));
  ASSERT_TRUE(guest_.call("dirty_rate.start", {{"period_ms", 10}}));
  EXPECT_TRUE(is_done(guest_.call_until("dirty_rate.get", is_done)));
}

}  // namespace
}  // namespace vmm
