#include <gtest/gtest.h>

#include <arpa/inet.h>

#include <string>
#include <string_view>
#include <vector>

#include "load/options.h"

namespace vmm::load {
namespace {

Result<Load> parse(const std::vector<std::string_view>& arguments) {
  return parse_load(arguments);
}

TEST(LoadTest, ADiskLoadHasAllItsOptions) {
  const auto load = parse({"disk", "device=/dev/vda", "access=randwrite", "block=64K", "depth=32",
                           "count=500", "name=w32"});
  ASSERT_TRUE(load) << load.error().message();
  const auto& disk = std::get<DiskLoad>(load.value());
  EXPECT_EQ(disk.path, "/dev/vda");
  EXPECT_EQ(disk.access, Access::kRandomWrite);
  EXPECT_EQ(disk.block_bytes, 64U << 10);
  EXPECT_EQ(disk.depth, 32U);
  EXPECT_EQ(disk.count, 500U);
  EXPECT_EQ(disk.name, "w32");
}

TEST(LoadTest, ADiskLoadIsOneRandomBlockAtATimeUnlessToldOtherwise) {
  const auto load = parse({"disk", "device=/dev/vda", "access=randread", "count=5"});
  ASSERT_TRUE(load) << load.error().message();
  const auto& disk = std::get<DiskLoad>(load.value());
  EXPECT_EQ(disk.block_bytes, 4096U);
  EXPECT_EQ(disk.depth, 1U);
  EXPECT_EQ(disk.name, "randread");
}

TEST(LoadTest, ANetworkLoadHasAPeerAndACount) {
  const auto load = parse({"receive", "peer=10.1.2.3:5000", "count=64M"});
  ASSERT_TRUE(load) << load.error().message();
  const auto& network = std::get<NetworkLoad>(load.value());
  EXPECT_EQ(network.exchange, Exchange::kReceive);
  EXPECT_EQ(ntohl(network.peer.sin_addr.s_addr), 0x0a01'0203U);
  EXPECT_EQ(ntohs(network.peer.sin_port), 5000);
  EXPECT_EQ(network.count, 64U << 20);
  EXPECT_EQ(network.name, "receive");
}

TEST(LoadTest, AServerHasAnAddress) {
  const auto load = parse({"serve", "address=0.0.0.0:1"});
  ASSERT_TRUE(load) << load.error().message();
  EXPECT_EQ(ntohs(std::get<Server>(load.value()).address.sin_port), 1);
}

struct Wrong {
  std::vector<std::string_view> arguments;
  std::string_view message;
  // In the names of the tests, instead of the bytes of this.
  friend std::ostream& operator<<(std::ostream& out, const Wrong& wrong) {
    return out << wrong.message;
  }
};

class WrongLoadTest : public testing::TestWithParam<Wrong> {};

INSTANTIATE_TEST_SUITE_P(
    All, WrongLoadTest,
    testing::Values(Wrong{{}, "say what load to make (see load help)"},
                    Wrong{{"dance"}, "'dance' is no load (see load help)"},
                    Wrong{{"disk", "fast"}, "'fast' is not NAME=VALUE"},
                    Wrong{{"disk", "=1"}, "'=1' is not NAME=VALUE"},
                    Wrong{{"disk", "count=1", "count=2"}, "count= is there twice"},
                    Wrong{{"disk", "access=read", "count=1"}, "device= is missing"},
                    Wrong{{"disk", "device=x", "access=trim", "count=1"},
                          "access: 'trim' is none of randread, randwrite, read, write"},
                    Wrong{{"disk", "device=x", "access=read"}, "count= is missing"},
                    Wrong{{"disk", "device=x", "access=read", "count=no"},
                          "count: 'no' is not a size such as 64M"},
                    Wrong{{"disk", "device=x", "access=read", "count=1", "block=1000"},
                          "block: 1000 is not a multiple of 512"},
                    Wrong{{"disk", "device=x", "access=read", "count=1", "block=2M"},
                          "block: 2097152 is more than 1048576"},
                    Wrong{{"disk", "device=x", "access=read", "count=1", "depth=129"},
                          "depth: 129 is more than 128"},
                    Wrong{{"disk", "device=x", "access=read", "count=1", "peer=1.2.3.4:5"},
                          "peer= is not an argument of this load"},
                    Wrong{{"send", "count=1"}, "peer= is missing"},
                    Wrong{{"send", "peer=host:5", "count=1"},
                          "'host:5' is not an address such as 10.0.0.1:5000"},
                    Wrong{{"ping", "peer=10.0.0.1", "count=1"},
                          "'10.0.0.1' is not an address such as 10.0.0.1:5000"},
                    Wrong{{"ping", "peer=10.0.0.1:0", "count=1"},
                          "'10.0.0.1:0' is not an address such as 10.0.0.1:5000"},
                    Wrong{{"ping", "peer=10.0.0.1:70000", "count=1"},
                          "'10.0.0.1:70000' is not an address such as 10.0.0.1:5000"}));

TEST_P(WrongLoadTest, GivesOneClearUsageError) {
  const auto load = parse(GetParam().arguments);
  ASSERT_FALSE(load);
  EXPECT_EQ(load.error().kind(), ErrorKind::kUsage);
  EXPECT_EQ(load.error().message(), GetParam().message);
}

}  // namespace
}  // namespace vmm::load
