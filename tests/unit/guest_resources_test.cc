#include "vmm/guest_resources.h"

#include <filesystem>

#include "vmm_support.h"

namespace vmm {
namespace {

// A guest with two disks that are written to and one that is only read.
class GuestResourcesTest : public ::testing::Test {
 protected:
  GuestResourcesTest() {
    for (const auto* name : {"a", "b", "c"}) {
      config_.disks.push_back(
          {name, dir_.file(name, std::string(4096, 'x')), false, *name == 'c', name});
    }
  }
  // Which disks are held, in order.
  static std::string held(const GuestResources& resources) {
    std::string names;
    for (const auto& disk : resources.disks) names += disk->held() ? '1' : '0';
    return names;
  }

  TempDir dir_;
  GuestConfig config_;
};

TEST_F(GuestResourcesTest, OpenTakesTheDisksAndPrepareDoesNot) {
  const auto prepared = GuestResources::prepare(config_);
  ASSERT_TRUE(prepared) << prepared.error().message();
  EXPECT_EQ(held(prepared.value()), "000");
  EXPECT_EQ(prepared.value().disks[0]->size(), 4096U);
  const auto opened = GuestResources::open(config_);
  ASSERT_TRUE(opened) << opened.error().message();
  EXPECT_EQ(held(opened.value()), "111");
  EXPECT_TRUE(GuestResources::prepare(config_)) << "the source still has them";
}

TEST_F(GuestResourcesTest, WhatIsReleasedAnotherProcessCanTake) {
  auto source = GuestResources::open(config_);
  auto destination = GuestResources::prepare(config_);
  ASSERT_TRUE(source);
  ASSERT_TRUE(destination);
  expect_error(destination.value().reacquire_disks(), ErrorKind::kFailed, "locked by another");
  EXPECT_EQ(held(destination.value()), "000");
  ASSERT_TRUE(source.value().release_disks());
  EXPECT_EQ(held(source.value()), "000");
  ASSERT_TRUE(destination.value().reacquire_disks());
  EXPECT_EQ(held(destination.value()), "111");
  expect_error(source.value().reacquire_disks(), ErrorKind::kFailed, "locked by another");
  EXPECT_EQ(held(source.value()), "000");
}

TEST_F(GuestResourcesTest, BothMayBeRepeated) {
  auto resources = GuestResources::open(config_);
  ASSERT_TRUE(resources);
  EXPECT_TRUE(resources.value().reacquire_disks());
  EXPECT_TRUE(resources.value().release_disks());
  EXPECT_TRUE(resources.value().release_disks());
  EXPECT_TRUE(resources.value().reacquire_disks());
  EXPECT_EQ(held(resources.value()), "111");
}

TEST_F(GuestResourcesTest, WhereOneDiskCannotBeTakenNoneIs) {
  auto resources = GuestResources::prepare(config_);
  ASSERT_TRUE(resources);
  auto second_alone = config_;
  second_alone.disks = {config_.disks[1]};
  const auto other = GuestResources::open(second_alone);
  ASSERT_TRUE(other);
  const auto taken = resources.value().reacquire_disks();
  expect_error(taken, ErrorKind::kFailed, (dir_ / "b").string());
  EXPECT_EQ(held(resources.value()), "000");
  auto first_alone = config_;
  first_alone.disks = {config_.disks[0]};
  EXPECT_TRUE(GuestResources::open(first_alone)) << "the first one is free again";
}

TEST_F(GuestResourcesTest, ADiskThatHasChangedItsSizeIsNotTakenBack) {
  auto resources = GuestResources::open(config_);
  ASSERT_TRUE(resources);
  ASSERT_TRUE(resources.value().release_disks());
  std::filesystem::resize_file(dir_ / "b", 8192);
  expect_error(resources.value().reacquire_disks(), ErrorKind::kFailed, "4096 bytes");
  EXPECT_EQ(held(resources.value()), "000");
}

TEST_F(GuestResourcesTest, ErrorsNameTheDevice) {
  config_.disks[1].path = dir_ / "nothing";
  expect_error(GuestResources::prepare(config_), ErrorKind::kUsage, "disk b: ");
  expect_error(GuestResources::open(config_), ErrorKind::kUsage, "disk b: ");
  config_.disks.clear();
  config_.nets = {{"lan", 999, {}}};
  expect_error(GuestResources::open(config_), ErrorKind::kUsage, "net lan: ");
}

}  // namespace
}  // namespace vmm
