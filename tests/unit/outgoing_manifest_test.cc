#include "vmm/outgoing_manifest.h"

#include <unistd.h>

#include "vmm/layout.h"
#include "vmm_support.h"

namespace vmm {
namespace {

// A guest with one of everything and its resources, but taps, which are not looked at.
class OutgoingManifestTest : public ::testing::Test {
 protected:
  OutgoingManifestTest() {
    config_.name = "web1";
    config_.vcpus = 2;
    config_.memory = 64 << 20;
    config_.boot = {"/images/Image", "/images/initrd.gz", "console=ttyAMA0"};
    config_.cpu.sve = true;
    config_.virtio_console = true;
    config_.rng = false;
    config_.balloon = true;
    config_.disks = {{"root", dir_.file("root.img", std::string(4096, 'x')), false, true, "r"},
                     {"data", dir_.file("data.img", std::string(1024, 'x')), false, true, "d"}};
  }
  Result<migration::Manifest> manifest() {
    auto resources = GuestResources::prepare(config_);
    if (!resources) return fail(resources.error());
    config_.nets = nets_;
    return outgoing_manifest(config_, resources.value());
  }

  TempDir dir_;
  GuestConfig config_;
  std::vector<GuestConfig::Net> nets_;
};

TEST_F(OutgoingManifestTest, SaysWhatTheMachineIs) {
  const auto described = manifest();
  ASSERT_TRUE(described) << described.error().message();
  const auto& got = described.value();
  EXPECT_EQ(got.guest, "web1");
  EXPECT_EQ(got.machine_version, layout::kMachineVersion);
  EXPECT_EQ(got.vcpus, 2U);
  EXPECT_EQ(got.memory, 64ULL << 20);
  EXPECT_FALSE(got.hugetlb);
  EXPECT_TRUE(got.cpu.sve);
  EXPECT_FALSE(got.cpu.pauth);
  EXPECT_TRUE(got.virtio_console);
  EXPECT_FALSE(got.rng);
  EXPECT_TRUE(got.balloon);
  EXPECT_EQ(got.page_size, static_cast<std::uint32_t>(::sysconf(_SC_PAGESIZE)));
  EXPECT_EQ(got.vmm_version, VMM_VERSION);
  EXPECT_THAT(got.kernel_version, ::testing::StartsWith("Linux "));
}

TEST_F(OutgoingManifestTest, NamesFilesWithoutTheirFolders) {
  const auto described = manifest();
  ASSERT_TRUE(described) << described.error().message();
  const auto& got = described.value();
  EXPECT_EQ(got.boot, (migration::Manifest::Boot{"Image", "initrd.gz", "console=ttyAMA0"}));
  EXPECT_EQ(got.disks,
            (std::vector<migration::Manifest::Disk>{{"root", 4096, true, false, "r", "root.img"},
                                                    {"data", 1024, true, false, "d", "data.img"}}));
}

TEST_F(OutgoingManifestTest, AGuestWithoutInitrdHasNone) {
  config_.boot.initrd.reset();
  const auto described = manifest();
  ASSERT_TRUE(described) << described.error().message();
  EXPECT_EQ(described.value().boot.initrd, "");
}

// The address must be the same at the destination, where the guest may have another name.
TEST_F(OutgoingManifestTest, AddressesThatFollowFromTheNameAreGivenAway) {
  const auto fixed = MacAddress::parse("52:54:00:12:34:56");
  ASSERT_TRUE(fixed);
  nets_ = {{"lan", "tap0", fixed.value()}, {"wan", "tap1", {}}};
  const auto described = manifest();
  ASSERT_TRUE(described) << described.error().message();
  const auto& nets = described.value().nets;
  ASSERT_EQ(nets.size(), 2U);
  EXPECT_EQ(nets[0].mac, fixed.value().bytes());
  EXPECT_EQ(nets[1].mac, MacAddress::derive("web1", "wan").bytes());
}

TEST_F(OutgoingManifestTest, TheOtherSideTakesIt) {
  auto described = manifest();
  ASSERT_TRUE(described) << described.error().message();
  described.value().id = migration::MigrationId::random().value();
  const auto encoded = migration::encode(described.value());
  ASSERT_TRUE(encoded) << encoded.error().message();
  EXPECT_EQ(migration::decode_manifest(encoded.value()).value(), described.value());
}

TEST_F(OutgoingManifestTest, AGuestWithAPerformanceMonitorCannotMove) {
  config_.cpu.pmu = true;
  expect_error(manifest(), ErrorKind::kMigration, "web1 cannot move: the state of CPU feature pmu");
}

TEST_F(OutgoingManifestTest, DisksThatAreWrittenThroughThePageCacheCannotMove) {
  config_.disks[1].readonly = false;
  expect_error(manifest(), ErrorKind::kMigration, "disk data");
  expect_error(manifest(), ErrorKind::kMigration, "direct = true");
}

TEST_F(OutgoingManifestTest, DisksPastThePageCacheCan) {
  const auto resources = GuestResources::prepare(config_);
  ASSERT_TRUE(resources) << resources.error().message();
  for (auto& disk : config_.disks) {
    disk.readonly = false;
    disk.direct = true;
  }
  EXPECT_TRUE(outgoing_manifest(config_, resources.value()));
}

}  // namespace
}  // namespace vmm
