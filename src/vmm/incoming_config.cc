#include "vmm/incoming_config.h"

#include <unistd.h>

#include <algorithm>
#include <system_error>

#include "migration/peer_text.h"
#include "vmm/layout.h"

namespace vmm {
namespace {

using migration::Manifest;

constexpr const char* kHowToMap = "name one in --config, or allow its folder with --allow-path";

// The file of that name in the folder that the operator allows, if it is there.
std::optional<std::filesystem::path> allowed_file(const IncomingOptions& options,
                                                  const std::string& name) {
  // Names of other folders do not get through the manifest's decoder; nor would they here.
  const bool plain = !name.empty() && name != "." && name != ".." && name.find('/') == name.npos;
  if (!options.allow_path || !plain) return std::nullopt;
  auto path = *options.allow_path / name;
  std::error_code error;
  if (!std::filesystem::exists(path, error)) return std::nullopt;
  return path;
}

template <typename Device>
const Device* find(const std::vector<Device>& devices, const std::string& id) {
  const auto found = std::ranges::find(devices, id, &Device::id);
  return found == devices.end() ? nullptr : &*found;
}

Result<GuestConfig::Disk> map_disk(const Manifest::Disk& disk, const IncomingOptions& options) {
  GuestConfig::Disk mapped{disk.id, {}, disk.direct, disk.read_only, disk.serial};
  const auto* local = options.config ? find(options.config->disks, disk.id) : nullptr;
  if (local != nullptr) {
    if (local->readonly && !disk.read_only) {
      return fail(ErrorKind::kUsage, "disk {}: read-only in --config, and the guest writes to it",
                  disk.id);
    }
    mapped.path = local->path;
    return mapped;
  }
  const auto file = allowed_file(options, disk.file_name);
  if (!file) {
    return fail(ErrorKind::kUsage, "disk {} ({}): no image here; {}", disk.id,
                migration::printable(disk.file_name), kHowToMap);
  }
  mapped.path = *file;
  return mapped;
}

Result<GuestConfig::Net> map_net(const Manifest::Net& net, const IncomingOptions& options) {
  const auto* local = options.config ? find(options.config->nets, net.id) : nullptr;
  if (local == nullptr) {
    return fail(ErrorKind::kUsage, "net {}: no tap here; name one in --config", net.id);
  }
  TRY(const auto mac, MacAddress::from_bytes(net.mac));
  return GuestConfig::Net{net.id, local->tap, mac};
}

GuestConfig::Boot map_boot(const Manifest::Boot& boot, const IncomingOptions& options) {
  if (options.config) {
    auto mapped = options.config->boot;
    mapped.cmdline = boot.cmdline;
    return mapped;
  }
  return {allowed_file(options, boot.kernel).value_or(""), allowed_file(options, boot.initrd),
          boot.cmdline};
}

Result<> check_machine(const Manifest& manifest) {
  if (manifest.machine_version != layout::kMachineVersion) {
    return fail(ErrorKind::kHost, "machine version: {} at the source, {} here",
                manifest.machine_version, layout::kMachineVersion);
  }
  const auto page_size = static_cast<std::uint32_t>(::sysconf(_SC_PAGESIZE));
  if (manifest.page_size != page_size) {
    return fail(ErrorKind::kHost, "host page size: {} at the source, {} here", manifest.page_size,
                page_size);
  }
  if (manifest.cpu.pmu) {
    return fail(ErrorKind::kHost, "CPU feature pmu: its state cannot be moved");
  }
  return success();
}

}  // namespace

Result<GuestConfig> incoming_config(const Manifest& manifest, const IncomingOptions& options) {
  TRY(check_machine(manifest));
  GuestConfig config;
  config.name = options.name.value_or(manifest.guest);
  TRY(with_context(check_guest_name(config.name), "name of the guest"));
  config.vcpus = manifest.vcpus;
  config.memory = manifest.memory;
  config.hugetlb = manifest.hugetlb;
  config.boot = map_boot(manifest.boot, options);
  config.cpu = {manifest.cpu.sve, manifest.cpu.pauth, manifest.cpu.pmu};
  if (options.config) config.console_file = options.config->console_file;
  config.virtio_console = manifest.virtio_console;
  config.rng = manifest.rng;
  config.balloon = manifest.balloon;
  for (const auto& disk : manifest.disks) {
    TRY(auto mapped, map_disk(disk, options));
    config.disks.push_back(std::move(mapped));
  }
  for (const auto& net : manifest.nets) {
    TRY(auto mapped, map_net(net, options));
    config.nets.push_back(std::move(mapped));
  }
  return config;
}

Result<> check_disk_sizes(const Manifest& manifest, const GuestResources& resources) {
  for (std::size_t n = 0; n < manifest.disks.size(); ++n) {
    const auto& disk = manifest.disks[n];
    const auto& image = *resources.disks[n];
    if (image.size() != disk.size) {
      return fail(ErrorKind::kUsage, "disk {}: {} bytes at the source, {} here ({})", disk.id,
                  disk.size, image.size(), image.path());
    }
  }
  return success();
}

}  // namespace vmm
