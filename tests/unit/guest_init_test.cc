#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "init/cmdline.h"

namespace vmm::guest {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

TEST(CommandLineTest, SplitsAtBlanksOutsideQuotes) {
  EXPECT_THAT(split_command_line("console=ttyAMA0  quiet\n"),
              ElementsAre("console=ttyAMA0", "quiet"));
  EXPECT_THAT(split_command_line("a=\"x y\" b"), ElementsAre("a=x y", "b"));
  EXPECT_THAT(split_command_line("\"a=x y\" b"), ElementsAre("a=x y", "b"));
  EXPECT_THAT(split_command_line(""), IsEmpty());
  EXPECT_THAT(split_command_line("a=\"\" b"), ElementsAre("a=", "b"));
}

TEST(CommandLineTest, StopsBeforeTheWordsOfInit) {
  EXPECT_THAT(split_command_line("a -- b"), ElementsAre("a"));
  EXPECT_THAT(split_command_line("a --"), ElementsAre("a"));
}

TEST(CommandLineTest, AParameterHasAValueIsEmptyOrIsNotThere) {
  const std::string_view text = "quiet vmm.run=\"echo 1 > /x; sync\" vmm.shell";
  EXPECT_EQ(parameter(text, "vmm.run"), "echo 1 > /x; sync");
  EXPECT_EQ(parameter(text, "vmm.shell"), "");
  EXPECT_EQ(parameter(text, "vmm.ru"), std::nullopt);
  EXPECT_EQ(parameter(text, "vmm.runs"), std::nullopt);
}

TEST(CommandLineTest, TheLastOfAParameterCounts) {
  EXPECT_EQ(parameter("a=1 a=2", "a"), "2");
}

TEST(RootDiskTest, IsOnlyThereWhereTheCommandLineNamesIt) {
  EXPECT_EQ(root_disk("quiet vmm.run=\"mount root=/dev/vda\""), std::nullopt);
  EXPECT_EQ(root_disk("root=/dev/vda quiet"), (RootDisk{"/dev/vda", "ext4", true, "/sbin/init"}));
}

TEST(RootDiskTest, TypeAndFirstProgramCanBeNamed) {
  EXPECT_EQ(root_disk("root=/dev/vdb1 rootfstype=ext2 init=/bin/sh"),
            (RootDisk{"/dev/vdb1", "ext2", true, "/bin/sh"}));
}

TEST(RootDiskTest, TheLastOfReadOnlyAndWritableCounts) {
  EXPECT_FALSE(root_disk("root=/dev/vda ro rw")->read_only);
  EXPECT_TRUE(root_disk("root=/dev/vda rw ro")->read_only);
}

TEST(ConsolePathTest, IsThePreferredConsole) {
  EXPECT_EQ(console_path("ttyAMA0\n"), "/dev/ttyAMA0");
  EXPECT_EQ(console_path("tty0 ttyAMA0\n"), "/dev/ttyAMA0");
  EXPECT_EQ(console_path("\n"), "/dev/console");
  EXPECT_EQ(console_path(""), "/dev/console");
}

}  // namespace
}  // namespace vmm::guest
