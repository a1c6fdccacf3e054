#include "migration/manifest.h"

#include <gtest/gtest.h>

#include <functional>

#include "migration/limits.h"
#include "migration_manifest_support.h"

namespace vmm::migration {
namespace {

TEST(ManifestTest, ComesOutAsItWentIn) {
  const auto manifest = full_manifest();
  const auto bytes = encode(manifest).value();
  EXPECT_EQ(decode_manifest(bytes).value(), manifest);
  Manifest least;
  least.guest = "g";
  least.memory = kManifestMemoryUnit;
  least.boot.kernel = "Image";
  least.page_size = 65536;
  EXPECT_EQ(decode_manifest(encode(least).value()).value(), least);
}

TEST(ManifestTest, TheLargestOneFits) {
  auto manifest = full_manifest();
  manifest.guest.assign(kMaxManifestName, 'g');
  manifest.disks.clear();
  manifest.nets.clear();
  for (std::size_t i = 0; i < kMaxManifestDevices; ++i) {
    auto id = std::string(kMaxManifestName - 2, 'd') + std::to_string(10 + i);
    manifest.disks.push_back({id, 1, false, true, std::string(kMaxManifestSerial, 's'),
                              std::string(kMaxManifestFileName, 'f')});
    manifest.nets.push_back({id, {2, 0, 0, 0, 0, 1}});
  }
  manifest.boot = {std::string(kMaxManifestFileName, 'k'), std::string(kMaxManifestFileName, 'i'),
                   std::string(kMaxManifestCmdline, 'c')};
  manifest.cpu_identity.resize(kMaxManifestCpuIdentity);
  const auto bytes = encode(manifest).value();
  EXPECT_LE(bytes.size(), kMaxManifest);
  EXPECT_EQ(decode_manifest(bytes).value(), manifest);
}

TEST(ManifestTest, WhatNoGuestCanBeIsRefusedByNameOnBothSides) {
  struct Case {
    const char* field;
    std::function<void(Manifest&)> spoil;
  };
  using M = Manifest;
  const Case cases[] = {
      {"guest", [](M& m) { m.guest = ""; }},
      {"guest", [](M& m) { m.guest = "../web1"; }},
      {"guest", [](M& m) { m.guest = ".web1"; }},
      {"guest", [](M& m) { m.guest = "web\n1"; }},
      {"guest", [](M& m) { m.guest.assign(kMaxManifestName + 1, 'g'); }},
      {"vcpus", [](M& m) { m.vcpus = 0; }},
      {"vcpus", [](M& m) { m.vcpus = kMaxManifestVcpus + 1; }},
      {"memory", [](M& m) { m.memory = 0; }},
      {"memory", [](M& m) { m.memory += 4096; }},
      {"memory", [](M& m) { m.memory = kMaxManifestMemory + kManifestMemoryUnit; }},
      {"memory", [](M& m) { m.memory = ~std::uint64_t{0}; }},
      {"disks", [](M& m) { m.disks.resize(kMaxManifestDevices + 1, m.disks[0]); }},
      {"disk.id", [](M& m) { m.disks[1].id = m.disks[0].id; }},
      {"disk.id", [](M& m) { m.disks[0].id = "a/b"; }},
      {"disk.size", [](M& m) { m.disks[0].size = ~std::uint64_t{0}; }},
      {"disk.serial", [](M& m) { m.disks[0].serial = ""; }},
      {"disk.serial", [](M& m) { m.disks[0].serial = std::string("a\0b", 3); }},
      {"disk.file_name", [](M& m) { m.disks[0].file_name = "/etc/shadow"; }},
      {"disk.file_name", [](M& m) { m.disks[0].file_name = "a/b"; }},
      {"disk.file_name", [](M& m) { m.disks[0].file_name = ".."; }},
      {"disk.file_name", [](M& m) { m.disks[0].file_name.assign(1, '.'); }},
      {"disk.file_name", [](M& m) { m.disks[0].file_name = ""; }},
      {"disk.file_name", [](M& m) { m.disks[0].file_name = std::string("a\0b", 3); }},
      {"disk.file_name", [](M& m) { m.disks[0].file_name = "a\x1b[2J"; }},
      {"nets", [](M& m) { m.nets.resize(kMaxManifestDevices + 1, m.nets[0]); }},
      {"net.id", [](M& m) { m.nets.push_back(m.nets[0]); }},
      {"net.mac", [](M& m) { m.nets[0].mac = {}; }},
      {"net.mac", [](M& m) { m.nets[0].mac[0] |= 1; }},
      {"boot.kernel", [](M& m) { m.boot.kernel = ""; }},
      {"boot.kernel", [](M& m) { m.boot.kernel = "../Image"; }},
      {"boot.initrd", [](M& m) { m.boot.initrd = "boot/initrd"; }},
      {"boot.cmdline", [](M& m) { m.boot.cmdline.assign(kMaxManifestCmdline + 1, 'c'); }},
      {"boot.cmdline", [](M& m) { m.boot.cmdline = std::string("a\0b", 3); }},
      {"page_size", [](M& m) { m.page_size = 0; }},
      {"page_size", [](M& m) { m.page_size = 12288; }},
      {"page_size", [](M& m) { m.page_size = 131072; }},
      {"vmm_version", [](M& m) { m.vmm_version = "1\n2"; }},
      {"kernel_version", [](M& m) { m.kernel_version.assign(kMaxManifestVersion + 1, '6'); }},
      {"cpu_identity", [](M& m) { m.cpu_identity.resize(kMaxManifestCpuIdentity + 1); }},
      {"channels", [](M& m) { m.channels = 0; }},
      {"channels", [](M& m) { m.channels = kMaxDataChannels + 1; }},
  };
  for (const Case& c : cases) {
    auto manifest = full_manifest();
    c.spoil(manifest);
    const auto checked = check(manifest);
    ASSERT_FALSE(checked) << c.field;
    EXPECT_NE(checked.error().message().find(c.field), std::string::npos)
        << checked.error().message();
    EXPECT_FALSE(encode(manifest)) << c.field;
  }
}

TEST(ManifestTest, TheDecoderChecksWhatItReads) {
  const auto manifest = full_manifest();
  auto bytes = encode(manifest).value();
  // The guest's name is behind the id and its length.
  const std::size_t name = MigrationId::kBytes + sizeof(std::uint32_t);
  ASSERT_EQ(static_cast<char>(bytes[name]), 'w');
  bytes[name] = std::byte{'/'};
  EXPECT_FALSE(decode_manifest(bytes));
}

}  // namespace
}  // namespace vmm::migration
