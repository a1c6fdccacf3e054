#include "vmm/dirty_rate.h"

#include <atomic>
#include <optional>

#include "fake_dirty_log.h"
#include "movable_fakes.h"
#include "vmm_support.h"

namespace vmm {
namespace {

using namespace std::chrono_literals;
using ::testing::IsEmpty;

constexpr std::uint64_t kPages = 512;

TEST(DirtyRateOptionsTest, PeriodAndIntervalAreChecked) {
  EXPECT_TRUE(check({1ms, 1ms, {}}));
  EXPECT_TRUE(check({1h, 1h, {}}));
  expect_error(check({0ms, 1ms, {}}), ErrorKind::kUsage, "period of 0 ms");
  expect_error(check({1h + 1ms, 1ms, {}}), ErrorKind::kUsage, "period of 3600001 ms");
  expect_error(check({10ms, 0ms, {}}), ErrorKind::kUsage, "interval of 0 ms");
  expect_error(check({10ms, 11ms, {}}), ErrorKind::kUsage, "interval of 11 ms");
  expect_error(check({10ms, -1ms, {}}), ErrorKind::kUsage, "interval of -1 ms");
}

class SamplerTest : public ::testing::Test {
 protected:
  void start(const DirtyRateOptions& options) {
    sampler_.emplace(log_, memory_, options, [this] { ++ended_; });
  }
  void wait_until_ended() const {
    while (ended_ == 0) std::this_thread::sleep_for(1ms);
  }
  // The measurement has found something.
  void wait_until_measured() {
    while (sampler_->result().value().intervals.empty()) {
      sampler_->keep_alive();
      std::this_thread::sleep_for(1ms);
    }
  }
  // vCPUs write to `pages` pages behind each look, and another one more than behind the last.
  void write_more_each_time() {
    log_.between = [this, last = 0]() mutable {
      if (log_.gets == last) return;
      last = log_.gets;
      for (int page = 0; page < last; ++page) log_.write(static_cast<std::uint64_t>(page) * 7);
    };
  }

  GuestMemory memory_ = small_memory(kPages * kPageSize);
  FakeDirtyLog log_{kPages};
  std::atomic<int> ended_ = 0;
  std::optional<DirtyRateSampler> sampler_;
};

TEST_F(SamplerTest, EachIntervalCountsThePagesThatWereWrittenInIt) {
  write_more_each_time();
  start({40ms, 10ms, {}});
  wait_until_ended();
  const auto rate = sampler_->finish();
  ASSERT_TRUE(rate) << rate.error().message();
  const auto& intervals = rate.value().intervals;
  ASSERT_FALSE(intervals.empty());
  for (std::size_t n = 0; n < intervals.size(); ++n) EXPECT_EQ(intervals[n], n + 1);
  EXPECT_EQ(rate.value().unique_pages, intervals.back()) << "pages are counted once";
  EXPECT_GE(rate.value().measured, 40ms);
  EXPECT_LE(intervals.size(), 4U);
  EXPECT_EQ(ended_, 1);
}

TEST_F(SamplerTest, AGuestThatWritesNothingHasNoRate) {
  start({20ms, 10ms, {}});
  wait_until_ended();
  const auto rate = sampler_->finish();
  ASSERT_TRUE(rate) << rate.error().message();
  for (const auto pages : rate.value().intervals) EXPECT_EQ(pages, 0U) << "not even at the start";
  EXPECT_EQ(rate.value().unique_pages, 0U);
}

TEST_F(SamplerTest, LoggingIsOffAfterwards) {
  start({20ms, 10ms, {}});
  wait_until_ended();
  ASSERT_TRUE(sampler_->finish());
  EXPECT_FALSE(log_.on);
  EXPECT_GE(log_.stops, 1);
}

TEST_F(SamplerTest, TheModeIsHardwareWhereThereIsAChoice) {
  struct Case {
    bool hardware;
    std::optional<DirtyLogMode> asked;
    DirtyLogMode used;
  };
  for (const auto& [hardware, asked, used] :
       {Case{true, {}, DirtyLogMode::kHardware}, Case{false, {}, DirtyLogMode::kWriteProtect},
        Case{true, DirtyLogMode::kWriteProtect, DirtyLogMode::kWriteProtect}}) {
    FakeDirtyLog log(kPages);
    log.hardware = hardware;
    DirtyRateSampler sampler(log, memory_, {5ms, 5ms, asked}, [] {});
    std::this_thread::sleep_for(20ms);
    const auto rate = sampler.finish();
    ASSERT_TRUE(rate) << rate.error().message();
    EXPECT_EQ(rate.value().mode, used);
  }
}

TEST_F(SamplerTest, StopEndsItEarlyWithWhatWasFound) {
  start({1h, 5ms, {}});
  wait_until_measured();
  sampler_->stop();
  wait_until_ended();
  const auto rate = sampler_->finish();
  ASSERT_TRUE(rate) << rate.error().message();
  EXPECT_FALSE(rate.value().intervals.empty());
  EXPECT_FALSE(log_.on);
}

TEST_F(SamplerTest, GoingAwayEndsItAndTheLogging) {
  start({1h, 5ms, {}});
  wait_until_measured();
  sampler_.reset();
  EXPECT_EQ(ended_, 1);
  EXPECT_FALSE(log_.on);
}

TEST_F(SamplerTest, WithoutSomebodyWhoAsksItEndsByItself) {
  start({1h, 1h, {}});
  wait_until_ended();  // after a few seconds
  const auto rate = sampler_->finish();
  ASSERT_TRUE(rate) << rate.error().message();
  EXPECT_THAT(rate.value().intervals, IsEmpty());
  EXPECT_FALSE(log_.on);
}

TEST_F(SamplerTest, ALogThatFailsIsTheResultAndIsOffAfterwards) {
  for (const int failing : {0, 1}) {  // at the start, and at the first look
    SCOPED_TRACE(failing);
    FakeDirtyLog log(kPages);
    log.broken = failing == 0;
    if (failing == 1) {
      log.between = [&log, done = false]() mutable {
        if (!done && log.gets == 1) log.broken = done = true;
      };
    }
    std::atomic<bool> ended = false;
    DirtyRateSampler sampler(log, memory_, {1h, 5ms, {}}, [&ended] { ended = true; });
    while (!ended) std::this_thread::sleep_for(1ms);
    expect_error(sampler.finish(), ErrorKind::kHost, "the log is broken");
    EXPECT_FALSE(log.on);
  }
}

}  // namespace
}  // namespace vmm
