#include "migration/decision_record.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <fstream>
#include <thread>

namespace vmm::migration {
namespace {

constexpr std::int64_t kNow = 1'800'000'000;
const MigrationId kId = MigrationId::parse("00112233445566778899aabbccddeeff").value();

class DecisionRecordTest : public ::testing::Test {
 protected:
  DecisionRecordTest() {
    std::string name = (std::filesystem::temp_directory_path() / "vmm-records-XXXXXX").string();
    root_ = ::mkdtemp(name.data());
    folder = root_ / "state" / "migrations";
  }
  ~DecisionRecordTest() override { std::filesystem::remove_all(root_); }

  DecisionRecords open() { return DecisionRecords::open(folder).value(); }
  [[nodiscard]] std::filesystem::path file(const std::string& extension) const {
    return folder / (kId.to_string() + extension);
  }
  void write(const std::string& extension, std::string_view text) {
    std::ofstream(file(extension), std::ios::binary) << text;
  }
  void age(const std::filesystem::path& path, std::int64_t seconds) {
    const timespec times[2] = {{kNow - seconds, 0}, {kNow - seconds, 0}};
    ASSERT_EQ(::utimensat(AT_FDCWD, path.c_str(), times, 0), 0);
  }
  std::size_t files() {
    return static_cast<std::size_t>(std::distance(std::filesystem::directory_iterator(folder),
                                                  std::filesystem::directory_iterator()));
  }

  std::filesystem::path folder;

 private:
  std::filesystem::path root_;
};

SourceRecord departure(SourceOutcome outcome) {
  return {kId, "web1", "host2:4444", outcome, kNow};
}

TEST_F(DecisionRecordTest, TheFirstDecisionStandsForEveryoneAfterIt) {
  auto records = open();
  EXPECT_EQ(records.lookup(kId).value(), std::nullopt);
  EXPECT_EQ(records.decide(kId, Outcome::kDiscarded, kNow).value(), Outcome::kDiscarded);
  EXPECT_EQ(records.decide(kId, Outcome::kStarted, kNow + 1).value(), Outcome::kDiscarded);
  EXPECT_EQ(open().lookup(kId).value(), (Decision{Outcome::kDiscarded, kNow}));
  EXPECT_EQ(files(), 1U);
  struct stat info {};
  ASSERT_EQ(::stat(folder.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777U, 0700U);
}

TEST_F(DecisionRecordTest, ManyWhoDecideAtOnceAgree) {
  auto records = open();
  for (int round = 0; round < 20; ++round) {
    const auto id = MigrationId::random().value();
    constexpr std::size_t kDeciders = 8;
    std::array<Outcome, kDeciders> outcomes{};
    {
      std::vector<std::jthread> threads;
      for (std::size_t i = 0; i < kDeciders; ++i) {
        threads.emplace_back([&, i] {
          const auto mine = i % 2 == 0 ? Outcome::kStarted : Outcome::kDiscarded;
          outcomes[i] = records.decide(id, mine, kNow).value();
        });
      }
    }
    EXPECT_EQ(std::ranges::count(outcomes, outcomes[0]), std::ssize(outcomes));
    EXPECT_EQ(records.lookup(id).value()->outcome, outcomes[0]);
  }
}

TEST_F(DecisionRecordTest, WhatDoesNotFitOnTheDiskIsNotDecided) {
  auto records = open();
  ASSERT_TRUE(records.put(departure(SourceOutcome::kCommitted)));
  // In a process of its own, since the limit stays with it.
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    ::signal(SIGXFSZ, SIG_IGN);
    const rlimit none{10, 10};
    ::setrlimit(RLIMIT_FSIZE, &none);
    const bool decided = records.decide(kId, Outcome::kStarted, kNow).has_value();
    const bool put = records.put(departure(SourceOutcome::kDone)).has_value();
    ::_exit(decided || put ? 1 : 0);
  }
  int status = -1;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(files(), 1U);
  EXPECT_EQ(records.lookup(kId).value(), std::nullopt);
  EXPECT_EQ(records.source(kId).value(), departure(SourceOutcome::kCommitted));
}

TEST_F(DecisionRecordTest, AFolderThatIsGoneIsAnError) {
  auto records = open();
  std::filesystem::remove_all(folder);
  EXPECT_FALSE(records.decide(kId, Outcome::kStarted, kNow));
  EXPECT_FALSE(records.lookup(kId));
  EXPECT_FALSE(records.put(departure(SourceOutcome::kDone)));
  EXPECT_FALSE(records.sweep(kNow));
  EXPECT_FALSE(DecisionRecords::open("/proc/vmm/migrations"));
}

TEST_F(DecisionRecordTest, ADamagedDecisionIsNeitherStartedNorDiscarded) {
  auto records = open();
  ASSERT_TRUE(records.decide(kId, Outcome::kStarted, kNow));
  const std::string good = "id=" + kId.to_string() + "\noutcome=started\ntime=1800000000\n";
  std::ifstream in(file(".destination"));
  EXPECT_EQ(std::string(std::istreambuf_iterator<char>(in), {}), good);
  for (std::size_t length = 0; length < good.size(); ++length) {
    write(".destination", good.substr(0, length));
    EXPECT_FALSE(records.lookup(kId)) << length;
    EXPECT_FALSE(records.decide(kId, Outcome::kDiscarded, kNow)) << length;
  }
  for (const std::string& bad :
       {good + "x=y\n", good + good, "id=" + std::string(32, '0') + good.substr(35),
        good.substr(0, good.size() - 2) + "x\n", std::string(5000, 'x')}) {
    write(".destination", bad);
    EXPECT_FALSE(records.lookup(kId)) << bad;
  }
}

TEST_F(DecisionRecordTest, ADepartureIsReplacedAsAWhole) {
  auto records = open();
  EXPECT_EQ(records.source(kId).value(), std::nullopt);
  for (const auto outcome :
       {SourceOutcome::kCommitted, SourceOutcome::kInDoubt, SourceOutcome::kDone,
        SourceOutcome::kResumed, SourceOutcome::kDiscarded}) {
    ASSERT_TRUE(records.put(departure(outcome)));
    EXPECT_EQ(records.source(kId).value(), departure(outcome));
  }
  EXPECT_EQ(files(), 1U);
  auto bad = departure(SourceOutcome::kDone);
  bad.guest = "two\nlines";
  EXPECT_FALSE(records.put(bad));
}

TEST_F(DecisionRecordTest, OldRecordsGoButNeverThoseInDoubt) {
  constexpr std::int64_t kDay = 86'400;
  auto records = open();
  ASSERT_TRUE(records.decide(kId, Outcome::kStarted, kNow));
  ASSERT_TRUE(records.put(departure(SourceOutcome::kInDoubt)));
  std::ofstream(folder / "1-1.tmp") << "id=";
  std::ofstream(folder / "readme") << "mine";
  for (const auto& entry : std::filesystem::directory_iterator(folder))
    age(entry.path(), 29 * kDay);
  age(folder / "1-1.tmp", 60);
  EXPECT_EQ(records.sweep(kNow).value(), 0U);
  for (const auto& entry : std::filesystem::directory_iterator(folder))
    age(entry.path(), 31 * kDay);
  EXPECT_EQ(records.sweep(kNow).value(), 2U);
  EXPECT_EQ(records.lookup(kId).value(), std::nullopt);
  EXPECT_EQ(records.source(kId).value(), departure(SourceOutcome::kInDoubt));
  ASSERT_TRUE(records.put(departure(SourceOutcome::kDone)));
  age(file(".source"), 31 * kDay);
  EXPECT_EQ(records.sweep(kNow).value(), 1U);
  EXPECT_EQ(files(), 1U);
}

TEST_F(DecisionRecordTest, RecordsLieWhereTheHostKeepsState) {
  ::setenv("XDG_STATE_HOME", "/some/state", 1);
  EXPECT_EQ(default_records_folder().value(), "/some/state/vmm/migrations");
  ::setenv("XDG_STATE_HOME", "not/absolute", 1);
  const auto otherwise = default_records_folder();
  ::unsetenv("XDG_STATE_HOME");
  EXPECT_EQ(default_records_folder().value(), otherwise.value());
  if (::geteuid() == 0) {
    EXPECT_EQ(otherwise.value(), "/var/lib/vmm/migrations");
  }
}

}  // namespace
}  // namespace vmm::migration
