#include "vmm/incoming_config.h"

#include <unistd.h>

#include <functional>
#include <vector>

#include "migration_manifest_support.h"
#include "vmm/layout.h"
#include "vmm_support.h"

namespace vmm {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

// A guest with one of everything, that this host could take.
migration::Manifest manifest() {
  auto manifest = migration::full_manifest();
  manifest.machine_version = layout::kMachineVersion;
  manifest.page_size = static_cast<std::uint32_t>(::sysconf(_SC_PAGESIZE));
  return manifest;
}

// This host's resources for it, with other paths than the source's.
GuestConfig local_config() {
  GuestConfig config;
  config.name = "here";
  config.vcpus = 7;
  config.memory = 64 << 20;
  config.boot = {"/here/Image", "/here/initrd", "of this host"};
  config.console_file = "/here/console";
  config.disks = {{"data", "/here/data.img", false, true, "x"},
                  {"root", "/here/root.img", true, false, "x"},
                  {"spare", "/here/spare.img", true, false, "x"}};
  config.nets = {{"lan", "tap7", {}}};
  return config;
}

TEST(IncomingConfigTest, TheMachineIsTheSourcesAndTheResourcesAreThisHosts) {
  const auto config = incoming_config(manifest(), {local_config(), {}, {}});
  ASSERT_TRUE(config) << config.error().message();
  const auto& got = config.value();
  EXPECT_EQ(got.name, "web1");
  EXPECT_EQ(got.vcpus, 2U);
  EXPECT_EQ(got.memory, 512ULL << 20);
  EXPECT_TRUE(got.cpu.pauth);
  EXPECT_FALSE(got.cpu.sve);
  EXPECT_TRUE(got.rng);
  EXPECT_FALSE(got.balloon);
  EXPECT_FALSE(got.virtio_console);
  EXPECT_EQ(got.console_file, "/here/console");
  EXPECT_EQ(got.boot.kernel, "/here/Image");
  EXPECT_EQ(got.boot.initrd, "/here/initrd");
  EXPECT_EQ(got.boot.cmdline, "console=ttyAMA0") << "the guest's own, for its next boot";

  ASSERT_EQ(got.disks.size(), 2U) << "in the guest's order, and no others";
  EXPECT_EQ(got.disks[0].id, "root");
  EXPECT_EQ(got.disks[0].path, "/here/root.img");
  EXPECT_EQ(got.disks[0].serial, "root");
  EXPECT_TRUE(got.disks[0].direct);
  EXPECT_FALSE(got.disks[0].readonly);
  EXPECT_EQ(got.disks[1].path, "/here/data.img");
  EXPECT_TRUE(got.disks[1].readonly);
  EXPECT_EQ(got.disks[1].serial, "d-1");
  ASSERT_EQ(got.nets.size(), 1U);
  EXPECT_EQ(std::get<std::string>(got.nets[0].tap), "tap7");
  ASSERT_TRUE(got.nets[0].mac);
  EXPECT_EQ(got.nets[0].mac->bytes(), manifest().nets[0].mac);
}

TEST(IncomingConfigTest, FilesOfTheSameNameAreTakenFromTheAllowedFolder) {
  const TempDir dir;
  for (const auto* name : {"root.img", "data.img", "Image", "initrd.gz"}) dir.file(name, "x");
  auto wanted = manifest();
  wanted.nets.clear();
  const auto config = incoming_config(wanted, {{}, dir.path(), {}});
  ASSERT_TRUE(config) << config.error().message();
  EXPECT_EQ(config.value().disks[0].path, dir / "root.img");
  EXPECT_EQ(config.value().disks[1].path, dir / "data.img");
  EXPECT_EQ(config.value().boot.kernel, dir / "Image");
  EXPECT_EQ(config.value().boot.initrd, dir / "initrd.gz");
  EXPECT_FALSE(config.value().console_file);
}

TEST(IncomingConfigTest, AConfigurationGoesBeforeTheAllowedFolder) {
  const TempDir dir;
  dir.file("root.img", "x");
  dir.file("data.img", "x");
  auto local = local_config();
  local.disks.erase(local.disks.begin());  // "data"
  const auto config = incoming_config(manifest(), {local, dir.path(), {}});
  ASSERT_TRUE(config) << config.error().message();
  EXPECT_EQ(config.value().disks[0].path, "/here/root.img");
  EXPECT_EQ(config.value().disks[1].path, dir / "data.img");
}

TEST(IncomingConfigTest, BootFilesThatAreMissingAreNoError) {
  auto wanted = manifest();
  wanted.disks.clear();
  wanted.nets.clear();
  const auto config = incoming_config(wanted, {});
  ASSERT_TRUE(config) << config.error().message();
  EXPECT_EQ(config.value().boot.kernel, "");
  EXPECT_FALSE(config.value().boot.initrd);
}

TEST(IncomingConfigTest, TheGuestCanHaveAnotherNameHere) {
  const auto config = incoming_config(manifest(), {local_config(), {}, "web2"});
  ASSERT_TRUE(config) << config.error().message();
  EXPECT_EQ(config.value().name, "web2");
}

struct Refusal {
  const char* name;
  std::function<void(migration::Manifest&, IncomingOptions&)> change;
  ErrorKind kind;
  std::vector<const char*> words;
};

class IncomingRefusalTest : public ::testing::TestWithParam<Refusal> {};

TEST_P(IncomingRefusalTest, NamesWhatIsWrong) {
  auto wanted = manifest();
  IncomingOptions options{local_config(), {}, {}};
  GetParam().change(wanted, options);
  const auto config = incoming_config(wanted, options);
  for (const auto* words : GetParam().words) expect_error(config, GetParam().kind, words);
}

INSTANTIATE_TEST_SUITE_P(
    All, IncomingRefusalTest,
    ::testing::Values(Refusal{"machine_version",
                              [](auto& manifest, auto&) { manifest.machine_version = 77; },
                              ErrorKind::kHost,
                              {"machine version", "77 at the source", "1 here"}},
                      Refusal{"page_size",
                              [](auto& manifest, auto&) { manifest.page_size *= 4; },
                              ErrorKind::kHost,
                              {"page size", "16384 at the source", "4096 here"}},
                      Refusal{"pmu",
                              [](auto& manifest, auto&) { manifest.cpu.pmu = true; },
                              ErrorKind::kHost,
                              {"pmu"}},
                      Refusal{"name",
                              [](auto& manifest, auto&) { manifest.guest = "../../etc/passwd"; },
                              ErrorKind::kUsage,
                              {"name"}},
                      Refusal{"disk_not_mapped",
                              [](auto&, auto& options) {
                                options.config->disks.pop_back();
                                options.config->disks.pop_back();
                              },
                              ErrorKind::kUsage,
                              {"disk root (root.img)", "--config", "--allow-path"}},
                      Refusal{"nothing_mapped",
                              [](auto&, auto& options) { options.config.reset(); },
                              ErrorKind::kUsage,
                              {"disk root (root.img)", "--config", "--allow-path"}},
                      Refusal{"nothing_mapped_of_a_name_that_is_no_text",
                              [](auto& manifest, auto& options) {
                                options.config.reset();
                                manifest.disks[0].file_name =
                                    "\x9b"
                                    "2J.img";
                              },
                              ErrorKind::kUsage,
                              {"disk root (?2J.img)"}},
                      Refusal{"read_only_here",
                              [](auto&, auto& options) {
                                options.config->disks[1].readonly = true;
                                options.config->disks[1].id = "root";
                              },
                              ErrorKind::kUsage,
                              {"disk root", "read-only in --config", "writes"}},
                      Refusal{"net_not_mapped",
                              [](auto&, auto& options) { options.config->nets.clear(); },
                              ErrorKind::kUsage,
                              {"net lan", "--config"}},
                      Refusal{"net_not_mapped_by_a_folder",
                              [](auto& manifest, auto& options) {
                                manifest.disks.clear();
                                options = {{}, "/", {}};
                              },
                              ErrorKind::kUsage,
                              {"net lan", "--config"}}),
    [](const auto& test) { return test.param.name; });

TEST(IncomingConfigTest, NoPathComesFromTheManifest) {
  const TempDir dir;
  dir.file("root.img", "x");
  const TempDir other;
  other.file("secret", "x");
  // Names that the decoder lets through as well as those that it would not.
  const std::string climbing = "../" + other.path().filename().string() + "/secret";
  for (const std::string& name : {std::string(), std::string("nothing"), climbing,
                                  (other / "secret").string(), std::string("..")}) {
    auto wanted = manifest();
    wanted.nets.clear();
    wanted.disks = {{"root", 1, false, true, "s", name}};
    wanted.boot = {name, name, ""};
    const auto config = incoming_config(wanted, {{}, dir.path(), {}});
    EXPECT_FALSE(config) << name << " is " << config.value().disks[0].path;
    wanted.disks.clear();
    const auto booting = incoming_config(wanted, {{}, dir.path(), {}});
    ASSERT_TRUE(booting);
    EXPECT_EQ(booting.value().boot.kernel, "") << name;
    EXPECT_FALSE(booting.value().boot.initrd) << name;
  }
}

TEST(IncomingConfigTest, DisksOfAnotherSizeAreRefused) {
  const TempDir dir;
  GuestConfig config;
  config.disks = {{"root", dir.file("root.img", std::string(4096, 'x')), false, false, "s"}};
  const auto resources = GuestResources::prepare(config);
  ASSERT_TRUE(resources) << resources.error().message();
  auto wanted = manifest();
  wanted.disks = {{"root", 4096, false, true, "s", "root.img"}};
  EXPECT_TRUE(check_disk_sizes(wanted, resources.value()));
  wanted.disks[0].size = 8192;
  const auto checked = check_disk_sizes(wanted, resources.value());
  expect_error(checked, ErrorKind::kUsage, "disk root: 8192 bytes at the source, 4096 here");
  expect_error(checked, ErrorKind::kUsage, (dir / "root.img").string());
}

}  // namespace
}  // namespace vmm
