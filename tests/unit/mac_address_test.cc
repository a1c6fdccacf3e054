#include "devices/mac_address.h"

#include <gtest/gtest.h>

#include <set>

namespace vmm {
namespace {

std::string parse_error(std::string_view text) {
  const auto mac = MacAddress::parse(text);
  if (mac) return "parsed";
  EXPECT_EQ(mac.error().kind(), ErrorKind::kUsage) << text;
  return mac.error().message();
}

TEST(MacAddressTest, ReadsWhatItWrites) {
  const auto mac = MacAddress::parse("52:54:00:aB:Cd:0f").value();
  EXPECT_EQ(mac.bytes(), (std::array<std::uint8_t, 6>{0x52, 0x54, 0x00, 0xab, 0xcd, 0x0f}));
  EXPECT_EQ(mac.to_string(), "52:54:00:ab:cd:0f");
}

TEST(MacAddressTest, RefusesWhatIsMalformed) {
  for (const std::string_view text :
       {"", "52", "52:54:00:12:34", "52:54:00:12:34:5", "52:54:00:12:34:567", "52-54-00-12-34-56",
        "52:54:00:12:34:5g", "5:254:00:12:34:56", "52:54:00:12:34:56:78", "525400123456",
        " 2:54:00:12:34:56", "52:54:00:12:34:-1"}) {
    EXPECT_NE(parse_error(text).find("is not a MAC address"), std::string::npos) << text;
  }
}

TEST(MacAddressTest, RefusesAddressesThatNoDeviceHas) {
  EXPECT_NE(parse_error("01:00:5e:00:00:01").find("multicast"), std::string::npos);
  EXPECT_NE(parse_error("ff:ff:ff:ff:ff:ff").find("multicast"), std::string::npos);
  EXPECT_NE(parse_error("00:00:00:00:00:00").find("all zero"), std::string::npos);
}

TEST(MacAddressTest, DerivesTheSameAddressEverywhere) {
  // A guest keeps its address over versions of the program: these never change.
  EXPECT_EQ(MacAddress::derive("web1", "lan").to_string(), "3e:47:94:40:f2:97");
  EXPECT_EQ(MacAddress::derive("", "").to_string(), "fa:f5:56:70:d3:4a");
}

TEST(MacAddressTest, DerivesLocalUnicastAddressesThatDiffer) {
  std::set<std::string> seen;
  for (int guest = 0; guest < 100; ++guest) {
    for (int net = 0; net < 10; ++net) {
      const auto mac = MacAddress::derive(fmt::format("web{}", guest), fmt::format("lan{}", net));
      EXPECT_EQ(mac.bytes()[0] & 3, 2);
      EXPECT_TRUE(seen.insert(mac.to_string()).second);
      EXPECT_EQ(MacAddress::parse(mac.to_string()).value(), mac);
    }
  }
  EXPECT_NE(MacAddress::derive("a", "bc"), MacAddress::derive("ab", "c"));
}

}  // namespace
}  // namespace vmm
