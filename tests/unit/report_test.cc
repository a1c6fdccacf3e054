#include "migration/report.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>

namespace vmm::migration {
namespace {

using namespace std::chrono_literals;

MigrationReport full_report() {
  MigrationReport report;
  report.result = "migrated";
  report.id = MigrationId::parse("00112233445566778899aabbccddeeff").value();
  report.rounds = {{1, DirtyLogMode::kHardware, 131072, 268435456, 65536, 250ms, 812us, 1500us, 0},
                   {2, DirtyLogMode::kWriteProtect, 33, 135168, 0, 1500us, 9us, 700ns, 40}};
  report.total = 1234567ns;
  report.downtime = 9500us;
  report.parts = {1us, 2us, 3us, 4us, 5us, 6us, 7us};
  report.verify = {{"aa", "bb", 88ms}};
  return report;
}

TEST(ReportTest, JsonHasExactlyTheMembersThatAreDocumented) {
  const auto expected = boost::json::parse(R"({
    "result": "migrated", "migration_id": "00112233445566778899aabbccddeeff",
    "rounds": [
      {"n": 1, "mode": "hw", "dirty_pages": 131072, "sent_bytes": 268435456, "zero_pages": 65536,
       "ms": 250.0, "get_us": 812.0, "clear_us": 1500.0, "throttle_percent": 0},
      {"n": 2, "mode": "wp", "dirty_pages": 33, "sent_bytes": 135168, "zero_pages": 0,
       "ms": 1.5, "get_us": 9.0, "clear_us": 0.7, "throttle_percent": 40}],
    "total_ms": 1.234567, "downtime_ms": 9.5,
    "downtime": {"pause": 0.001, "harvest": 0.002, "send": 0.003, "save": 0.004,
                 "transfer": 0.005, "restore": 0.006, "resume": 0.007},
    "verify": {"source": "aa", "destination": "bb", "ms": 88.0}})");
  EXPECT_EQ(to_json(full_report()), expected.as_object()) << boost::json::serialize(expected);
  auto report = full_report();
  report.verify.reset();
  EXPECT_TRUE(to_json(report).at("verify").is_null());
}

TEST(ReportTest, TheTableHasALineForEachRoundAndTheParts) {
  auto report = full_report();
  const auto text = to_text(report);
  EXPECT_EQ(std::ranges::count(text, '\n'), 6) << text;
  for (const char* part : {"downtime 9.50 ms", "hw", "wp", "131072", "256.0", "throttle %", " 40\n",
                           "DIFFERS", "resume", "00112233445566778899aabbccddeeff"}) {
    EXPECT_NE(text.find(part), std::string::npos) << part << "\n" << text;
  }
  report.verify->destination = report.verify->source;
  EXPECT_NE(to_text(report).find("memory is the same"), std::string::npos);
}

TEST(ReportTest, ProgressIsTheSameInJsonAndForPeople) {
  Progress progress{"precopy", 2, DirtyLogMode::kHardware, 1U << 20U, 2U << 20U, 8000, 1e9,
                    1500ms,    0};
  auto expected = boost::json::parse(R"({
    "phase": "precopy", "round": 2, "mode": "hw", "sent_bytes": 1048576,
    "remaining_bytes": 2097152, "dirty_pages_per_s": 8000.0, "bytes_per_s": 1000000000.0,
    "eta_ms": 1500, "throttle_percent": 0})");
  EXPECT_EQ(to_json(progress), expected.as_object());
  EXPECT_EQ(to_text(progress),
            "precopy: round 2 (hw), 1.0 MiB sent, 2.0 left, 953.7 MiB/s, 8000 pages/s written, "
            "1.5 s to go");
  progress.eta.reset();
  progress.throttle_percent = 60;
  expected.as_object()["eta_ms"] = nullptr;
  expected.as_object()["throttle_percent"] = 60;
  EXPECT_EQ(to_json(progress), expected.as_object());
  EXPECT_TRUE(to_text(progress).ends_with("8000 pages/s written, vCPUs throttled by 60 %"));
}

}  // namespace
}  // namespace vmm::migration
