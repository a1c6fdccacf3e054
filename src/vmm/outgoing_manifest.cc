#include "vmm/outgoing_manifest.h"

#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>

#include "vmm/layout.h"

namespace vmm {
namespace {

std::string kernel_version() {
  utsname names{};
  if (::uname(&names) != 0) return "unknown";
  return std::string(names.sysname) + " " + names.release;
}

}  // namespace

migration::Manifest machine_manifest(const GuestConfig& config, const GuestResources& resources) {
  migration::Manifest manifest;
  manifest.guest = config.name;
  manifest.machine_version = layout::kMachineVersion;
  manifest.vcpus = config.vcpus;
  manifest.memory = config.memory;
  manifest.hugetlb = config.hugetlb;
  manifest.cpu = {config.cpu.sve, config.cpu.pauth, config.cpu.pmu};
  manifest.virtio_console = config.virtio_console;
  manifest.rng = config.rng;
  manifest.balloon = config.balloon;
  for (std::size_t n = 0; n < config.disks.size(); ++n) {
    const auto& disk = config.disks[n];
    manifest.disks.push_back({disk.id, resources.disks[n]->size(), disk.readonly, disk.direct,
                              disk.serial, disk.path.filename().string()});
  }
  for (const auto& net : config.nets) {
    const auto mac = net.mac.value_or(MacAddress::derive(config.name, net.id));
    manifest.nets.push_back({net.id, mac.bytes()});
  }
  manifest.boot = {config.boot.kernel.filename().string(),
                   config.boot.initrd ? config.boot.initrd->filename().string() : "",
                   config.boot.cmdline};
  manifest.page_size = static_cast<std::uint32_t>(::sysconf(_SC_PAGESIZE));
  manifest.vmm_version = VMM_VERSION;
  manifest.kernel_version = kernel_version();
  return manifest;
}

Result<migration::Manifest> outgoing_manifest(const GuestConfig& config,
                                              const GuestResources& resources) {
  if (config.cpu.pmu) {
    return fail(ErrorKind::kMigration,
                "{} cannot move: the state of CPU feature pmu cannot be saved; boot it without",
                config.name);
  }
  for (const auto& disk : config.disks) {
    if (!disk.readonly && !disk.direct) {
      return fail(ErrorKind::kMigration,
                  "{} cannot move: disk {} is written through this host's page cache; boot it with "
                  "direct = true",
                  config.name, disk.id);
    }
  }
  return machine_manifest(config, resources);
}

}  // namespace vmm
