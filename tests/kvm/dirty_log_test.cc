#include "kvm/dirty_log.h"

#include <gmock/gmock.h>

#include <array>

#include "machine.h"

namespace vmm::kvm {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// Two and a half blocks of 2 MiB, less a page: chunks end within the last word.
constexpr std::size_t kLoggedRam = 5 * 1024 * 1024 - kPageSize;
constexpr std::uint64_t kPages = kLoggedRam / kPageSize;

constexpr std::array<std::uint32_t, 4> kStoreWhereTold{
    0xf9400001,  // ldr x1, [x0]
    0xf9000021,  // str x1, [x1]
    0xf9000001,  // str x1, [x0]
    0x17fffffd,  // b   . - 12
};

class DirtyLogTest : public GuestTest {
 protected:
  DirtyLogTest() { machine_.put_code(kStoreWhereTold); }

  [[nodiscard]] KvmDirtyLog& log() { return *machine_.log; }

  // Has the guest write to a page.
  void touch(std::uint64_t page) {
    const auto address = kRam + page * kPageSize;
    machine_.answer(address + 8);
    EXPECT_EQ(machine_.written(), address + 8);
  }

  [[nodiscard]] std::vector<std::uint64_t> bits() {
    std::vector<std::uint64_t> words(dirty_words(kPages));
    must(log().get(words));
    return words;
  }

  [[nodiscard]] std::vector<std::uint64_t> dirty() {
    std::vector<std::uint64_t> pages;
    const auto words = bits();
    for (std::uint64_t page = 0; page < kPages; ++page) {
      if ((words[page / 64] >> page % 64 & 1) != 0) pages.push_back(page);
    }
    return pages;
  }

  // Clears what the log has, in chunks.
  void clear_all() {
    constexpr std::uint64_t kChunk = 512;
    const auto words = bits();
    for (std::uint64_t first = 0; first < kPages; first += kChunk) {
      const auto count = std::min(kChunk, kPages - first);
      must(log().clear({first, count}, std::span(words).subspan(first / 64, dirty_words(count))));
    }
  }

  Machine machine_{1, {}, kLoggedRam};
};

class DirtyLogModeTest : public DirtyLogTest, public ::testing::WithParamInterface<DirtyLogMode> {};

TEST_P(DirtyLogModeTest, EveryPageIsDirtyAtFirstThenThoseWrittenTo) {
  must(log().start(GetParam()));
  EXPECT_EQ(must(log().mode_in_force()), GetParam());
  EXPECT_EQ(dirty().size(), kPages);
  clear_all();
  EXPECT_THAT(dirty(), IsEmpty());
  for (const std::uint64_t page : {700U, 1U, 63U, 64U, 1U}) touch(page);
  touch(kPages - 1);
  EXPECT_THAT(dirty(), ElementsAre(1, 63, 64, 700, kPages - 1));
  EXPECT_THAT(dirty(), ElementsAre(1, 63, 64, 700, kPages - 1)) << "reading clears nothing";
}

TEST_P(DirtyLogModeTest, ClearingWatchesThePagesOfItsMaskAlone) {
  must(log().start(GetParam()));
  clear_all();
  for (const std::uint64_t page : {64U, 65U, 127U, 128U}) touch(page);
  const std::array<std::uint64_t, 1> mask{1ULL << 1 | 1ULL << 63};  // pages 65 and 127
  must(log().clear({64, 64}, mask));
  EXPECT_THAT(dirty(), ElementsAre(64, 128));
  touch(127);
  EXPECT_THAT(dirty(), ElementsAre(64, 127, 128));
}

TEST_P(DirtyLogModeTest, ChangingTheModeLosesNoWrite) {
  const auto other =
      GetParam() == DirtyLogMode::kHardware ? DirtyLogMode::kWriteProtect : DirtyLogMode::kHardware;
  ASSERT_TRUE(log().offers(DirtyLogMode::kHardware)) << "this kernel has one mode only";
  must(log().start(GetParam()));
  clear_all();
  touch(10);
  must(log().set_mode(other));
  EXPECT_EQ(must(log().mode_in_force()), other);
  touch(11);
  EXPECT_THAT(dirty(), ElementsAre(10, 11));
  clear_all();
  touch(12);
  must(log().set_mode(GetParam()));
  touch(12);
  touch(13);
  EXPECT_THAT(dirty(), ElementsAre(12, 13));
}

TEST_P(DirtyLogModeTest, TheCpuIsToldToRecordInHardwareModeOnly) {
  must(log().start(GetParam()));
  const auto before = must(log().armed());
  // Only what is mapped can be armed.
  for (const std::uint64_t page : {3U, 4U, 5U}) touch(page);
  clear_all();
  const auto after = must(log().armed());
  if (GetParam() == DirtyLogMode::kHardware) {
    EXPECT_GE(after, before + 3);
  } else {
    EXPECT_EQ(after, before);
  }
}

TEST_P(DirtyLogModeTest, StoppingTurnsItOffAndItCanBeTurnedOnAgain) {
  must(log().stop());  // while off
  for (int round = 0; round < 2; ++round) {
    must(log().start(GetParam()));
    EXPECT_FALSE(log().start(GetParam())) << "twice";
    clear_all();
    touch(20);
    EXPECT_THAT(dirty(), ElementsAre(20));
    must(log().stop());
    std::vector<std::uint64_t> words(dirty_words(kPages));
    EXPECT_FALSE(log().get(words));
    EXPECT_EQ(must(log().mode_in_force()), DirtyLogMode::kWriteProtect);
    EXPECT_FALSE(log().set_mode(GetParam()));
    touch(21);
    must(log().stop());
  }
}

INSTANTIATE_TEST_SUITE_P(All, DirtyLogModeTest,
                         ::testing::Values(DirtyLogMode::kWriteProtect, DirtyLogMode::kHardware),
                         [](const auto& test) { return std::string(to_string(test.param)); });

TEST_F(DirtyLogTest, KnowsItsSizeAndRefusesOthers) {
  EXPECT_EQ(log().pages(), kPages);
  EXPECT_TRUE(log().offers(DirtyLogMode::kWriteProtect));
  must(log().start(DirtyLogMode::kWriteProtect));
  std::vector<std::uint64_t> words(dirty_words(kPages) + 1);
  EXPECT_FALSE(log().get(words));
  EXPECT_FALSE(log().clear({0, kPages + 1}, words));
  EXPECT_FALSE(log().clear({~0ULL - 63, 128}, words));
  EXPECT_FALSE(log().clear({0, 128}, std::span(words).first(1)));
  EXPECT_FALSE(log().clear({1, 64}, words)) << "not at the start of a word";
}

// Where the kernel has no hardware logging (tests/lab/test_host_kernels.py runs this on Debian's).
TEST(DirtyLogOnStockKernelTest, HardwareModeIsOfferedOrRefused) {
  Machine machine(1, {}, kLoggedRam);
  auto& log = *machine.log;
  const bool offered = must(must(System::open()).capabilities()).hw_dirty_log;
  EXPECT_EQ(log.offers(DirtyLogMode::kHardware), offered);
  const auto started = log.start(DirtyLogMode::kHardware);
  EXPECT_EQ(started.has_value(), offered);
  if (offered) return;
  EXPECT_EQ(started.error().kind(), ErrorKind::kHost);
  EXPECT_THAT(started.error().message(), HasSubstr("does not log dirty pages in hardware"));
  std::vector<std::uint64_t> words(dirty_words(kPages));
  EXPECT_FALSE(log.get(words)) << "an error leaves it off";
  must(log.start(DirtyLogMode::kWriteProtect));
  EXPECT_EQ(must(log.mode_in_force()), DirtyLogMode::kWriteProtect);
  EXPECT_FALSE(log.set_mode(DirtyLogMode::kHardware));
  EXPECT_EQ(must(log.armed()), 0U);
  must(log.get(words));
}

}  // namespace
}  // namespace vmm::kvm
