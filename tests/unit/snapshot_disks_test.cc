#include "vmm/snapshot_disks.h"

#include <fcntl.h>
#include <sys/stat.h>

#include "vmm_support.h"

namespace vmm {
namespace {

class SnapshotDisksTest : public ::testing::Test {
 protected:
  SnapshotDisksTest() {
    config_.disks = {{"seed", dir_.file("seed.img", std::string(512, 'x')), false, true, "s"},
                     {"root", dir_.file("root.img", std::string(4096, 'x')), false, false, "r"},
                     {"data", dir_.file("data.img", std::string(1024, 'x')), false, false, "d"}};
    for (const auto& disk : config_.disks) set_mtime(disk.path, 5);
  }
  static void set_mtime(const std::filesystem::path& path, long ns) {
    const timespec times[2] = {{0, 0}, {1'700'000'000, ns}};
    ASSERT_EQ(::utimensat(AT_FDCWD, path.c_str(), times, 0), 0);
  }
  std::vector<migration::SnapshotDisk> save() {
    auto resources = GuestResources::open(config_);
    return save_disks(config_, resources.value()).value();
  }
  Result<> check(const std::vector<migration::SnapshotDisk>& disks) {
    auto resources = GuestResources::open(config_);
    return check_disks_unchanged(disks, config_, resources.value());
  }

  TempDir dir_;
  GuestConfig config_;
};

TEST_F(SnapshotDisksTest, WritableImagesHaveSizeAndTime) {
  EXPECT_EQ(save(), (std::vector<migration::SnapshotDisk>{
                        {"root", 4096, true, 1'700'000'000'000'000'005},
                        {"data", 1024, true, 1'700'000'000'000'000'005}}));
}

TEST_F(SnapshotDisksTest, WhatHasNotChangedIsTaken) {
  const auto disks = save();
  const auto checked = check(disks);
  EXPECT_TRUE(checked) << checked.error().message();
  set_mtime(config_.disks[0].path, 6);
  EXPECT_TRUE(check(disks)) << "nobody minds a disk that is only read";
}

TEST_F(SnapshotDisksTest, WhatHasChangedIsRefused) {
  const auto disks = save();
  set_mtime(config_.disks[2].path, 4);
  expect_error(check(disks), ErrorKind::kFailed, "disk data: ");
  expect_error(check(disks), ErrorKind::kFailed, "data.img has changed since the snapshot");
}

TEST_F(SnapshotDisksTest, AnotherSizeIsRefusedThoughTheTimeIsRight) {
  const auto disks = save();
  std::filesystem::resize_file(config_.disks[1].path, 8192);
  set_mtime(config_.disks[1].path, 5);
  expect_error(check(disks), ErrorKind::kFailed, "disk root: ");
  expect_error(check(disks), ErrorKind::kFailed, "had 4096 bytes in the snapshot, and has 8192");
}

TEST_F(SnapshotDisksTest, ADiskThatTheSnapshotDoesNotHaveIsRefused) {
  auto disks = save();
  disks.pop_back();
  expect_error(check(disks), ErrorKind::kFailed, "disk data: not in the snapshot");
}

}  // namespace
}  // namespace vmm
