#include "migration/snapshot_file.h"

#include <sys/stat.h>

#include "snapshot_rig.h"

namespace vmm::migration {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class SnapshotFaultTest : public ::testing::TestWithParam<int> {};

INSTANTIATE_TEST_SUITE_P(Errors, SnapshotFaultTest, ::testing::Values(ENOSPC, EIO),
                         [](const auto& test) { return test.param == EIO ? "EIO" : "ENOSPC"; });

TEST_P(SnapshotFaultTest, WhateverFailsTheOldFileStaysAndNothingElse) {
  SnapshotRig rig(2 << 20, 50);
  int failing = 1;
  for (;; ++failing) {
    rig.dir.file("snap", "old");
    FailingCalls calls(failing, GetParam());
    const auto saved = rig.save(calls);
    if (saved) {
      EXPECT_LT(calls.calls(), failing) << "a failure was overlooked";
      break;
    }
    expect_error(saved, ErrorKind::kFailed, rig.path.string());
    EXPECT_THAT(saved.error().message(), HasSubstr(::strerror(GetParam()))) << failing;
    EXPECT_EQ(contents_of(rig.path), "old") << failing;
    EXPECT_THAT(rig.files(), ElementsAre("snap")) << failing;
  }
  // Writes, two fsync, two attempts to rename.
  EXPECT_GT(failing, 40);
  EXPECT_THAT(rig.files(), ElementsAre("snap"));
  EXPECT_TRUE(rig.open());
}

TEST_P(SnapshotFaultTest, WhateverFailsThereIsNoFileWhereThereWasNone) {
  SnapshotRig rig(2 << 20, 50);
  for (int failing = 1;; ++failing) {
    FailingCalls calls(failing, GetParam());
    const auto saved = rig.save(calls);
    if (saved) {
      EXPECT_LT(calls.calls(), failing) << "a failure was overlooked";
      break;
    }
    EXPECT_TRUE(rig.files().empty()) << failing << saved.error().message();
  }
  EXPECT_THAT(rig.files(), ElementsAre("snap"));
}

// A file system that knows only to replace.
class PlainCalls final : public SnapshotCalls {
 public:
  int rename(const char* from, const char* to, unsigned flags) override {
    if (flags == 0) return SnapshotCalls::rename(from, to, flags);
    errno = EINVAL;
    return -1;
  }
};

TEST(SnapshotFileTest, DoesWithoutAnExchangeOfNames) {
  SnapshotRig rig;
  rig.dir.file("snap", "old");
  PlainCalls calls;
  const auto saved = rig.save(calls);
  ASSERT_TRUE(saved) << saved.error().message();
  EXPECT_THAT(rig.files(), ElementsAre("snap"));
  EXPECT_TRUE(rig.open());
}

TEST(SnapshotFileTest, IsNobodyElsesToRead) {
  SnapshotRig rig;
  rig.dir.file("snap", "old");
  ASSERT_EQ(::chmod(rig.path.c_str(), 0644), 0);
  rig.save();
  struct stat status {};
  ASSERT_EQ(::stat(rig.path.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0600U);
}

TEST(SnapshotFileTest, ReplacesNothingButFiles) {
  const TempDir dir;
  SnapshotCalls calls;
  std::filesystem::create_directory(dir / "folder");
  expect_error(SnapshotFile::create(dir / "folder", calls), ErrorKind::kUsage, "no regular file");
  expect_error(SnapshotFile::create(dir / "nowhere/snap", calls), ErrorKind::kUsage,
               "cannot make a file beside " + (dir / "nowhere/snap").string());
}

TEST(SnapshotFileTest, OneThatIsNotCommittedIsGone) {
  const TempDir dir;
  SnapshotCalls calls;
  {
    const auto file = SnapshotFile::create(dir / "snap", calls);
    ASSERT_TRUE(file);
    ASSERT_TRUE(file.value()->write(5, bytes_of("x")));
    EXPECT_FALSE(std::filesystem::is_empty(dir.path()));
    EXPECT_FALSE(std::filesystem::exists(dir / "snap"));
  }
  EXPECT_TRUE(std::filesystem::is_empty(dir.path()));
}

}  // namespace
}  // namespace vmm::migration
