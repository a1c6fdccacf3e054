#include "devices/tap.h"

#include <fcntl.h>
#include <gtest/gtest.h>

namespace vmm {
namespace {

TEST(TapTest, RefusesNamesThatNoInterfaceCanHave) {
  for (const std::string& name :
       {std::string(), std::string("."), std::string(".."), std::string("a/b"), std::string("a b"),
        std::string("a:1"), std::string("tap%d"), std::string(16, 'a'), std::string("a\0b", 3)}) {
    const auto tap = Tap::open_by_name(name);
    ASSERT_FALSE(tap) << name;
    EXPECT_EQ(tap.error().kind(), ErrorKind::kUsage) << name;
    EXPECT_NE(tap.error().message().find("cannot be the name of a tap"), std::string::npos);
  }
}

TEST(TapTest, RefusesDescriptorsThatAreNoTaps) {
  for (const char* path : {"/dev/null", "/proc/self/status"}) {
    const auto tap = Tap::adopt(open_file(path, O_RDONLY).value());
    ASSERT_FALSE(tap) << path;
    EXPECT_EQ(tap.error().kind(), ErrorKind::kUsage);
    EXPECT_NE(tap.error().message().find("is not attached to a tap"), std::string::npos);
  }
  EXPECT_FALSE(Tap::adopt(Fd()));
}

}  // namespace
}  // namespace vmm
