#include "workload/pages.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "workload/options.h"
#include "workload/pacer.h"
#include "workload/report.h"

namespace vmm::workload {
namespace {

constexpr std::uint64_t kPages = 5;
constexpr std::uint64_t kFirst = 100;

class PageSliceTest : public testing::TestWithParam<Fill> {
 protected:
  std::uint64_t& word(std::uint64_t page, std::size_t index) {
    return words_[page * kWordsPerPage + index];
  }

  std::vector<std::uint64_t> words_ = std::vector<std::uint64_t>(kPages * kWordsPerPage);
  PageSlice slice_{words_, kFirst, GetParam()};
};

INSTANTIATE_TEST_SUITE_P(Fills, PageSliceTest, testing::Values(Fill::kZero, Fill::kPattern));

TEST_P(PageSliceTest, OnePassStoresOnceIntoEachPageInOrder) {
  slice_.write(3);
  for (std::uint64_t page = 0; page < kPages; ++page) {
    EXPECT_EQ(word(page, 0), page < 3 ? stamp(1, kFirst + page) : 0) << page;
  }
  slice_.write(2);
  EXPECT_EQ(slice_.passes(), 1U);
  EXPECT_EQ(word(4, 0), stamp(1, kFirst + 4));
}

TEST_P(PageSliceTest, ContentsFollowFromTheWriteCountAtEveryPointOfAPass) {
  slice_.prefill();
  for (std::uint64_t count = 0; count < 3 * kPages; ++count) {
    EXPECT_EQ(slice_.writes(), count);
    EXPECT_FALSE(slice_.verify()) << "after " << count;
    slice_.write(1);
  }
}

TEST_P(PageSliceTest, ABatchMayGoOverSeveralPasses) {
  slice_.prefill();
  slice_.write(3 * kPages + 2);
  EXPECT_EQ(slice_.passes(), 3U);
  EXPECT_FALSE(slice_.verify());
  EXPECT_EQ(word(1, 0), stamp(4, kFirst + 1));
  EXPECT_EQ(word(2, 0), stamp(3, kFirst + 2));
}

TEST_P(PageSliceTest, ALostWriteIsFound) {
  slice_.prefill();
  slice_.write(2 * kPages + 3);
  word(1, 0) = stamp(2, kFirst + 1);  // as if the last write had not been copied
  const auto mismatch = slice_.verify();
  ASSERT_TRUE(mismatch);
  EXPECT_EQ(mismatch->page, kFirst + 1);
  EXPECT_EQ(mismatch->word, 0U);
  EXPECT_EQ(mismatch->expected, stamp(3, kFirst + 1));
  EXPECT_EQ(mismatch->found, stamp(2, kFirst + 1));
}

TEST_P(PageSliceTest, APageInThePlaceOfAnotherIsFound) {
  slice_.prefill();
  slice_.write(kPages);
  std::copy_n(&word(2, 0), kWordsPerPage, &word(3, 0));
  const auto mismatch = slice_.verify();
  ASSERT_TRUE(mismatch);
  EXPECT_EQ(mismatch->page, kFirst + 3);
}

TEST_P(PageSliceTest, AChangedWordBesidesTheStampIsFound) {
  slice_.prefill();
  slice_.write(1);
  word(4, 511) ^= 1;
  const auto mismatch = slice_.verify();
  ASSERT_TRUE(mismatch);
  EXPECT_EQ(mismatch->page, kFirst + 4);
  EXPECT_EQ(mismatch->word, 511U);
}

TEST(PacerTest, GivesTheRateAndCarriesFractionsOver) {
  Pacer pacer(1500, 0);  // 1.5 pages a millisecond
  std::uint64_t total = 0;
  for (std::int64_t ms = 1; ms <= 1000; ++ms) {
    const std::uint64_t due = pacer.due(ms * 1'000'000);
    EXPECT_LE(due, 2U);
    total += due;
  }
  EXPECT_NEAR(static_cast<double>(total), 1500, 1);
}

TEST(PacerTest, AStallIsNotFollowedByABurst) {
  Pacer pacer(100'000, 0);
  EXPECT_EQ(pacer.due(5'000'000'000), 1000U);  // 10 ms worth, not 5 s
}

TEST(UniquePagesTest, AreAsManyAsWritesUntilAllPagesAreWritten) {
  EXPECT_EQ(unique_pages(0, 8), 0U);
  EXPECT_EQ(unique_pages(7, 8), 7U);
  EXPECT_EQ(unique_pages(8, 8), 8U);
  EXPECT_EQ(unique_pages(1000, 8), 8U);
}

TEST(PacerTest, AClockThatGoesBackYieldsNothing) {
  Pacer pacer(1'000'000, 5'000'000);
  EXPECT_EQ(pacer.due(1'000'000), 0U);
}

TEST(ClockWatchTest, FollowsTheLongestGapAndBackwardSteps) {
  ClockWatch watch;
  EXPECT_EQ(watch.observe(100), 0);
  EXPECT_EQ(watch.observe(150), 50);
  EXPECT_EQ(watch.observe(140), 0);
  EXPECT_EQ(watch.observe(170), 30);
  EXPECT_EQ(watch.longest_gap_ns(), 50);
  EXPECT_EQ(watch.backward_steps(), 1U);
}

TEST(ReportLineTest, IsOneLineOfKeysAndValues) {
  Line line;
  line.elapsed_ns = 2'000'000'000;
  line.pages = 77;
  line.passes = 3;
  line.unique = 21;
  line.pages_per_s = 38.4;
  line.gap_ns = 1'000'500'000;
  line.longest_gap_ns = 1'200'000'000;
  line.tick_ns = 9'800'000;
  line.longest_tick_ns = 10'100'000;
  EXPECT_EQ(format_line(line),
            "workload: t_ms=2000 pages=77 passes=3 unique=21 pages_per_s=38 gap_us=1000500 "
            "longest_gap_us=1200000 tick_us=9800 longest_tick_us=10100 verified=0 mismatches=0 "
            "clock_back=0");
  line.wall_ns = 1'700'000'000'042'000'000;
  EXPECT_THAT(format_line(line), testing::EndsWith(" wall=1700000000.042"));
}

Result<Options> parse(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), "workload");
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  return parse_options(static_cast<int>(arguments.size()), argv.data());
}

TEST(OptionsTest, ReadsEveryOption) {
  const auto options = parse(
      {"--size",     "8M",     "--rate=32MiB",   "--threads",  "4",        "--pin",  "--backing",
       "thp",        "--fill", "pattern",        "--interval", "50",       "--tick", "5",
       "--duration", "1.5",    "--verify-every", "250",        "--passes", "9",      "--wall"});
  ASSERT_TRUE(options) << options.error().message();
  EXPECT_EQ(options.value().size_bytes, 8U << 20);
  EXPECT_EQ(options.value().pages_per_s, 8192);
  EXPECT_EQ(options.value().threads, 4U);
  EXPECT_TRUE(options.value().pin);
  EXPECT_EQ(options.value().backing, Backing::kThp);
  EXPECT_EQ(options.value().fill, Fill::kPattern);
  EXPECT_EQ(options.value().interval_ms, 50);
  EXPECT_EQ(options.value().tick_ms, 5);
  EXPECT_EQ(options.value().duration_ms, 1500);
  EXPECT_EQ(options.value().verify_every_ms, 250);
  EXPECT_EQ(options.value().passes, 9U);
  EXPECT_TRUE(options.value().wall);
}

TEST(OptionsTest, RatesAreInPagesOrBytes) {
  EXPECT_EQ(parse_rate("8000").value(), 8000);
  EXPECT_EQ(parse_rate("4M").value(), 1024);
  EXPECT_EQ(parse_rate("max").value(), 0);
  EXPECT_FALSE(parse_rate("fast"));
}

struct Wrong {
  std::vector<std::string> arguments;
  std::string message;
};

class WrongOptionsTest : public testing::TestWithParam<Wrong> {};

INSTANTIATE_TEST_SUITE_P(
    All, WrongOptionsTest,
    testing::Values(Wrong{{"--size", "0"}, "--size: '0' is not a size such as 64M"},
                    Wrong{{"--size", "5000"}, "--size 5000: not a multiple of 4096"},
                    Wrong{{"--size", "9Q"}, "--size: '9Q' is not a size such as 64M"},
                    Wrong{{"--size", "99999999999G"}, "--size: '99999999999G' is too large"},
                    Wrong{{"--size", "4K", "--threads", "2"},
                          "--size 4096: less than a page for each of 2 threads"},
                    Wrong{{"--threads", "300"}, "--threads: 300 is not between 1 and 256"},
                    Wrong{{"--backing", "2m"}, "--backing: '2m' is neither 4k nor thp"},
                    Wrong{{"--fill", "ones"}, "--fill: 'ones' is neither zero nor pattern"},
                    Wrong{{"--interval", "x"}, "--interval: 'x' is not a number"},
                    Wrong{{"--duration", "-1"}, "--duration: '-1' is not a number of seconds"},
                    Wrong{{"--frequency"},
                          "--frequency: unknown option or missing value (see --help)"},
                    Wrong{{"--rate"}, "--rate: unknown option or missing value (see --help)"},
                    Wrong{{"now"}, "unexpected argument 'now'"}));

TEST_P(WrongOptionsTest, GiveOneClearUsageError) {
  const auto options = parse(GetParam().arguments);
  ASSERT_FALSE(options);
  EXPECT_EQ(options.error().kind(), ErrorKind::kUsage);
  EXPECT_EQ(options.error().message(), GetParam().message);
}

}  // namespace
}  // namespace vmm::workload
