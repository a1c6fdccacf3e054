#include "migration/manifest.h"

#include "fuzz_channels.h"
#include "vmm/incoming_config.h"
#include "vmm/layout.h"

// A manifest, and the machine that is made of it. The first byte says whether it is made to pass
// for one of this host.
namespace vmm::fuzz {
namespace {

// The operator allows a folder, and names one resource of each kind.
const IncomingOptions& options() {
  static const IncomingOptions made = [] {
    IncomingOptions some;
    some.config.emplace();
    some.config->name = "guest";
    some.config->disks.push_back({"root", "/nowhere/root.img", false, false, "1"});
    some.config->nets.push_back({"lan", {}, {}});
    some.allow_path = "/nowhere/images";
    return some;
  }();
  return made;
}

void check_config(const GuestConfig& config, const migration::Manifest& manifest) {
  check(config.disks.size() == manifest.disks.size(), "a guest has all of its disks");
  for (const auto& disk : config.disks) {
    const bool ours = disk.path == "/nowhere/root.img";
    check(ours || disk.path.parent_path() == "/nowhere/images", "no path comes from a manifest");
  }
  check(check_guest_name(config.name).has_value(), "a name is one");
}

void run(Input& input) {
  const bool passes = input.below(2) != 0;
  const auto bytes = input.rest();
  auto manifest = migration::decode_manifest(bytes);
  if (!manifest) return check_error(manifest.error());
  const auto encoded = migration::encode(manifest.value());
  check(encoded.has_value() && std::ranges::equal(encoded.value(), bytes),
        "a manifest is encoded as it came");
  if (passes) {
    manifest.value().machine_version = layout::kMachineVersion;
    manifest.value().page_size = 4096;
  }
  const auto config = incoming_config(manifest.value(), options());
  if (config) return check_config(config.value(), manifest.value());
  check_error(config.error());
}

const Target kTarget{"manifest", run};

}  // namespace
}  // namespace vmm::fuzz
