#include "vmm/dirty_rate_command.h"

#include <signal.h>

#include <boost/json/array.hpp>
#include <boost/json/parse.hpp>

#include <atomic>

#include "fake_guest_server.h"

namespace vmm {
namespace {

namespace json = boost::json;

json::object measured(bool done) {
  return {{"mode", "hw"},
          {"period_ms", 300},
          {"interval_ms", 100},
          {"measured_ms", 301.5},
          {"intervals", {3, 4, 5}},
          {"pages_per_s", 40.0},
          {"bytes_per_s", 163840.0},
          {"unique_pages", 512},
          {"done", done}};
}

const json::value kMigrating{{"migration", {{"line", "precopy: round 2"}}}};

class DirtyRateCommandTest : public ::testing::Test {
 protected:
  DirtyRateCommandTest() {
    server_.on("dirty_rate.start", [this](const json::object& params) -> Result<json::value> {
      ++started_;
      params_ = params;
      if (on_start_) on_start_();
      if (migrating_) return kMigrating;
      return json::value(json::object());
    });
    server_.on("dirty_rate.get", [this](const json::object&) -> Result<json::value> {
      if (on_get_) on_get_();
      if (migrates_meanwhile_) return kMigrating;
      return json::value(measured(++asked_ % 2 == 0));
    });
    server_.on("dirty_rate.stop", [this](const json::object&) -> Result<json::value> {
      ++stopped_;
      return json::value(json::object());
    });
  }
  ~DirtyRateCommandTest() override {
    for (const int signal : {SIGINT, SIGTERM}) ::signal(signal, SIG_DFL);
  }
  Result<> measure(const DirtyRateRequest& request) {
    server_.start();
    ::testing::internal::CaptureStdout();
    auto result = measure_dirty_rate(request);
    out_ = ::testing::internal::GetCapturedStdout();
    return result;
  }
  [[nodiscard]] static DirtyRateRequest quick() {
    DirtyRateRequest request;
    request.period_ms = 4;
    return request;
  }

  CommandFolders folders_;
  FakeGuestServer server_{folders_};
  std::function<void()> on_start_;
  std::function<void()> on_get_;
  json::object params_;
  bool migrating_ = false;
  bool migrates_meanwhile_ = false;
  std::atomic<int> started_ = 0;
  std::atomic<int> asked_ = 0;
  std::atomic<int> stopped_ = 0;
  std::string out_;
};

TEST_F(DirtyRateCommandTest, PrintsWhatWasMeasuredOnceItIsDone) {
  ASSERT_TRUE(measure(quick()));
  EXPECT_EQ(asked_, 2);
  EXPECT_EQ(out_,
            "40 pages/s, 0.2 MiB/s; 2.0 MiB written to in 302 ms (hardware dirty logging)\n"
            "pages in each 100 ms: 3 4 5\n");
  EXPECT_EQ(json::value(params_), (json::value{{"period_ms", 4}, {"dirty_log", "auto"}}));
}

TEST_F(DirtyRateCommandTest, OptionsAreSent) {
  auto request = quick();
  request.interval_ms = 2;
  request.dirty_log = "wp";
  ASSERT_TRUE(measure(request));
  EXPECT_EQ(json::value(params_),
            (json::value{{"period_ms", 4}, {"dirty_log", "wp"}, {"interval_ms", 2}}));
}

TEST_F(DirtyRateCommandTest, JsonIsALineForEachMeasurement) {
  auto request = quick();
  request.json = true;
  request.count = 3;
  ASSERT_TRUE(measure(request));
  auto expected = measured(true);
  expected.erase("done");
  std::istringstream lines(out_);
  std::string line;
  int count = 0;
  for (; std::getline(lines, line); ++count) EXPECT_EQ(json::parse(line), json::value(expected));
  EXPECT_EQ(count, 3);
  EXPECT_EQ(started_, 3);
}

TEST_F(DirtyRateCommandTest, AMigrationIsPrintedInstead) {
  migrating_ = true;
  auto request = quick();
  request.count = 2;
  ASSERT_TRUE(measure(request));
  EXPECT_EQ(out_, "migrating: precopy: round 2\nmigrating: precopy: round 2\n");
}

TEST_F(DirtyRateCommandTest, AMigrationThatBeginsMeanwhileIsPrintedInstead) {
  migrates_meanwhile_ = true;
  auto request = quick();
  request.json = true;
  ASSERT_TRUE(measure(request));
  EXPECT_EQ(json::parse(out_), kMigrating);
}

TEST_F(DirtyRateCommandTest, AnInterruptEndsTheMeasurement) {
  on_get_ = [] { ::raise(SIGTERM); };
  auto request = quick();
  request.count = 0;
  expect_error(measure(request), ErrorKind::kInterrupted, "no longer logged");
  EXPECT_EQ(stopped_, 1);
}

TEST_F(DirtyRateCommandTest, AnInterruptEndsWatchingAMigration) {
  migrating_ = true;
  on_start_ = [this] {
    if (started_ == 3) ::raise(SIGINT);
  };
  auto request = quick();
  request.count = 0;
  expect_error(measure(request), ErrorKind::kInterrupted, "interrupted");
  EXPECT_EQ(started_, 3);
}

TEST_F(DirtyRateCommandTest, ErrorsOfTheGuestKeepTheirExitCode) {
  server_.on("dirty_rate.start", [](const json::object&) -> Result<json::value> {
    return fail(ErrorKind::kUsage, "a period of 0 ms");
  });
  expect_error(measure(quick()), ErrorKind::kUsage, "a period of 0 ms");
  DirtyRateRequest request;
  request.name = "nobody";
  expect_error(measure_dirty_rate(request), ErrorKind::kNoSuchGuest, "nobody");
}

TEST_F(DirtyRateCommandTest, AReplyThatLacksSomethingIsAnError) {
  server_.on("dirty_rate.get", [](const json::object&) -> Result<json::value> {
    return json::value{{"done", true}, {"mode", "hw"}};
  });
  expect_error(measure(quick()), ErrorKind::kFailed, "lacks");
}

}  // namespace
}  // namespace vmm
