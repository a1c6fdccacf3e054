#include "vmm/guest_config_devices.h"

#include <fmt/format.h>

#include "vmm/layout.h"
#include "vmm_support.h"

namespace vmm {
namespace {

constexpr auto* kFile = "/etc/vmm/web.cfg";
// Four lines, so that what follows starts at line 5.
constexpr std::string_view kHead = "memory = '64M'\n[boot]\nkernel = 'k'\n\n";

Result<GuestConfig> parse(std::string_view devices) {
  return parse_guest_config(std::string(kHead) + std::string(devices), kFile);
}

TEST(GuestConfigDevicesTest, AGuestWithoutDevicesHasAnEntropySourceOnly) {
  const auto config = parse("");
  ASSERT_TRUE(config) << config.error().message();
  EXPECT_TRUE(config.value().rng);
  EXPECT_FALSE(config.value().balloon);
  EXPECT_FALSE(config.value().virtio_console);
  EXPECT_EQ(virtio_device_count(config.value()), 1U);
}

TEST(GuestConfigDevicesTest, DisksKeepTheirOrderAndHaveDefaults) {
  const auto config = parse(
      "[[disk]]\nid = 'root'\npath = 'root.img'\n"
      "[[disk]]\nid = 'a-long-name-of-a-data-disk'\npath = '/dev/sdb'\ndirect = true\n"
      "readonly = true\n[[disk]]\nid = 'c'\npath = 'c'\nserial = '12345678901234567890'\n");
  ASSERT_TRUE(config) << config.error().message();
  const auto& disks = config.value().disks;
  ASSERT_EQ(disks.size(), 3U);
  EXPECT_EQ(disks[0].id, "root");
  EXPECT_EQ(disks[0].path, "/etc/vmm/root.img");
  EXPECT_EQ(disks[0].serial, "root");
  EXPECT_FALSE(disks[0].direct);
  EXPECT_FALSE(disks[0].readonly);
  EXPECT_EQ(disks[1].path, "/dev/sdb");
  EXPECT_EQ(disks[1].serial, "a-long-name-of-a-dat");
  EXPECT_TRUE(disks[1].direct);
  EXPECT_TRUE(disks[1].readonly);
  EXPECT_EQ(disks[2].serial, "12345678901234567890");
}

TEST(GuestConfigDevicesTest, NetsHaveATapByNameOrByDescriptor) {
  const auto config = parse(
      "[[net]]\nid = 'lan'\ntap = 'tap0'\nmac = '52:54:00:12:34:56'\n"
      "[[net]]\nid = 'wan'\nfd = 7\n");
  ASSERT_TRUE(config) << config.error().message();
  const auto& nets = config.value().nets;
  ASSERT_EQ(nets.size(), 2U);
  EXPECT_EQ(std::get<std::string>(nets[0].tap), "tap0");
  ASSERT_TRUE(nets[0].mac);
  EXPECT_EQ(*nets[0].mac, MacAddress::parse("52:54:00:12:34:56").value());
  EXPECT_EQ(std::get<int>(nets[1].tap), 7);
  EXPECT_FALSE(nets[1].mac);
}

TEST(GuestConfigDevicesTest, TheOtherDevicesAreTurnedOnAndOff) {
  const auto config =
      parse("[rng]\nenabled = false\n[balloon]\nenabled = true\n[console]\nvirtio = true\n");
  ASSERT_TRUE(config) << config.error().message();
  EXPECT_FALSE(config.value().rng);
  EXPECT_TRUE(config.value().balloon);
  EXPECT_TRUE(config.value().virtio_console);
  EXPECT_EQ(virtio_device_count(config.value()), 2U);
}

TEST(GuestConfigDevicesTest, EveryMistakeIsToldWithItsPlace) {
  struct Case {
    const char* text;
    const char* error;
  };
  for (const auto& [text, error] : {
           Case{"disk = 3\n", "web.cfg:5:1: unknown key boot.disk"},
           Case{"[disk]\nid = 'a'\n", "web.cfg:5:1: disk is not a list of tables: write [[disk]]"},
           Case{"[[disk]]\npath = 'x'\n", "web.cfg:5:1: id is missing"},
           Case{"[[disk]]\nid = 'a'\n", "web.cfg:5:1: disk.path is missing"},
           Case{"[[disk]]\nid = 'a/b'\npath = 'x'\n", "web.cfg:6:6: disk.id must be 1 to 64"},
           Case{"[[disk]]\nid = 'a'\npath = ''\n", "web.cfg:7:8: disk.path is empty"},
           Case{"[[disk]]\nid = 'a'\npath = 'x'\ndirect = 1\n",
                "web.cfg:8:10: disk.direct is not true or false"},
           Case{"[[disk]]\nid = 'a'\npath = 'x'\nserial = ''\n", "disk.serial must be 1 to 20"},
           Case{"[[disk]]\nid = 'a'\npath = 'x'\nserial = '123456789012345678901'\n",
                "disk.serial must be 1 to 20 bytes"},
           Case{"[[disk]]\nid = 'a'\npath = 'x'\nread_only = true\n",
                "web.cfg:8:1: unknown key disk.read_only"},
           Case{"[[disk]]\nid = 'a'\npath = 'x'\n[[disk]]\nid = 'a'\npath = 'y'\n",
                "web.cfg:9:6: disk.id is taken already"},
           Case{"[[net]]\nid = 'a'\n", "web.cfg:5:1: a net has either a tap"},
           Case{"[[net]]\nid = 'a'\ntap = 't'\nfd = 3\n", "web.cfg:5:1: a net has either a tap"},
           Case{"[[net]]\nid = 'a'\ntap = '1234567890123456'\n", "net.tap must be 1 to 15"},
           Case{"[[net]]\nid = 'a'\ntap = ''\n", "net.tap must be 1 to 15"},
           Case{"[[net]]\nid = 'a'\ntap = 'a/b'\n", "net.tap must be 1 to 15"},
           Case{"[[net]]\nid = 'a'\nfd = -1\n", "net.fd is not a descriptor"},
           Case{"[[net]]\nid = 'a'\ntap = 't'\nmac = '52:54:00'\n", "web.cfg:8:7: net.mac"},
           Case{"[[net]]\nid = 'a'\ntap = 't'\nmac = '53:54:00:12:34:56'\n", "multicast"},
           Case{"[rng]\nenabled = 'no'\n", "web.cfg:6:11: rng.enabled is not true or false"},
           Case{"[balloon]\nsize = 3\n", "web.cfg:6:1: unknown key balloon.size"},
           Case{"[console]\nvirtio = 'yes'\n", "console.virtio is not true or false"},
       }) {
    expect_error(parse(text), ErrorKind::kUsage, error);
  }
}

TEST(GuestConfigDevicesTest, MoreDevicesThanInterruptsAreRefused) {
  std::string disks;
  for (unsigned n = 0; n + 1 < layout::kVirtioSlots; ++n) {
    disks += fmt::format("[[disk]]\nid = 'd{}'\npath = 'x'\n", n);
  }
  EXPECT_TRUE(parse(disks));  // with the entropy source, all slots
  expect_error(parse(disks + "[balloon]\nenabled = true\n"), ErrorKind::kUsage,
               "33 virtio devices, there are interrupts for 32");
}

}  // namespace
}  // namespace vmm
