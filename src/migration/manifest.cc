#include "migration/manifest.h"

#include <algorithm>
#include <string_view>

#include "base/bytes.h"
#include "base/checked.h"
#include "migration/limits.h"

namespace vmm::migration {
namespace {

constexpr std::uint32_t kMinPageSize = 4096;
constexpr std::uint32_t kMaxPageSize = 65536;
constexpr std::uint64_t kMaxDiskSize = 1ULL << 62;

bool alphanumeric(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

// Names become parts of file names, and text on terminals.
Result<> check_name(std::string_view field, std::string_view name) {
  const auto allowed = [](char c) { return alphanumeric(c) || c == '.' || c == '_' || c == '-'; };
  if (name.empty() || name.size() > kMaxManifestName || !alphanumeric(name[0]) ||
      !std::ranges::all_of(name, allowed)) {
    return fail(ErrorKind::kFailed,
                "manifest: {} is not 1 to {} letters, digits, '.', '_' or '-' that begin with a "
                "letter or digit",
                field, kMaxManifestName);
  }
  return success();
}

bool is_control(char c) {
  const auto code = static_cast<unsigned char>(c);
  return code < 0x20 || code == 0x7f;
}

Result<> check_text(std::string_view field, std::string_view text, std::size_t max) {
  if (text.size() > max || std::ranges::any_of(text, is_control)) {
    return fail(ErrorKind::kFailed,
                "manifest: {} is longer than {} bytes or has control characters", field, max);
  }
  return success();
}

Result<> check_file_name(std::string_view field, std::string_view name) {
  TRY(check_text(field, name, kMaxManifestFileName));
  if (name.empty() || name == "." || name == ".." || name.find('/') != std::string_view::npos) {
    return fail(ErrorKind::kFailed, "manifest: {} is not the name of a file without folders",
                field);
  }
  return success();
}

Result<> check_range(std::string_view field, std::uint64_t value, std::uint64_t min,
                     std::uint64_t max) {
  if (value < min || value > max) {
    return fail(ErrorKind::kFailed, "manifest: {} is {}, allowed are {} to {}", field, value, min,
                max);
  }
  return success();
}

template <typename Device>
Result<> check_ids(std::string_view field, const std::vector<Device>& devices) {
  for (auto device = devices.begin(); device != devices.end(); ++device) {
    TRY(check_name(field, device->id));
    const auto same = [&](const Device& other) { return other.id == device->id; };
    if (std::any_of(devices.begin(), device, same)) {
      return fail(ErrorKind::kFailed, "manifest: {} {} is there twice", field, device->id);
    }
  }
  return success();
}

Result<> check_disk(const Manifest::Disk& disk) {
  TRY(check_range("disk.size", disk.size, 0, kMaxDiskSize));
  if (disk.serial.empty() || disk.serial.size() > kMaxManifestSerial ||
      disk.serial.find('\0') != std::string::npos) {
    return fail(ErrorKind::kFailed, "manifest: disk.serial is not 1 to {} bytes without zeros",
                kMaxManifestSerial);
  }
  return check_file_name("disk.file_name", disk.file_name);
}

Result<> check_net(const Manifest::Net& net) {
  constexpr std::uint8_t kGroupBit = 1;
  const bool zero = std::ranges::all_of(net.mac, [](std::uint8_t byte) { return byte == 0; });
  if (zero || (net.mac[0] & kGroupBit) != 0) {
    return fail(ErrorKind::kFailed, "manifest: net.mac of {} is not the address of one device",
                net.id);
  }
  return success();
}

void put(ByteWriter& out, const Manifest::Disk& disk) {
  out.put_string(disk.id);
  out.put(disk.size);
  out.put_bool(disk.read_only);
  out.put_bool(disk.direct);
  out.put_string(disk.serial);
  out.put_string(disk.file_name);
}

Result<Manifest::Disk> get_disk(ByteReader& in) {
  Manifest::Disk disk;
  TRY(disk.id, in.get_string(kMaxManifestName));
  TRY(disk.size, in.get<std::uint64_t>());
  TRY(disk.read_only, in.get_bool());
  TRY(disk.direct, in.get_bool());
  TRY(disk.serial, in.get_string(kMaxManifestSerial));
  TRY(disk.file_name, in.get_string(kMaxManifestFileName));
  return disk;
}

void put(ByteWriter& out, const Manifest::Net& net) {
  out.put_string(net.id);
  out.put_bytes(std::as_bytes(std::span(net.mac)));
}

Result<Manifest::Net> get_net(ByteReader& in) {
  Manifest::Net net;
  TRY(net.id, in.get_string(kMaxManifestName));
  TRY(const auto mac, in.get_bytes(net.mac.size()));
  std::ranges::copy(mac, std::as_writable_bytes(std::span(net.mac)).begin());
  return net;
}

template <typename Device, typename Get>
Result<> get_devices(ByteReader& in, std::vector<Device>& devices, Get get) {
  TRY(const auto count, in.get<std::uint32_t>());
  if (count > kMaxManifestDevices) {
    return fail(ErrorKind::kFailed, "manifest: {} devices of a kind, at most {} are allowed", count,
                kMaxManifestDevices);
  }
  for (std::uint32_t i = 0; i < count; ++i) {
    TRY(auto device, get(in));
    devices.push_back(std::move(device));
  }
  return success();
}

template <typename Device>
void put_devices(ByteWriter& out, const std::vector<Device>& devices) {
  out.put(static_cast<std::uint32_t>(devices.size()));
  for (const Device& device : devices) put(out, device);
}

Result<> get_machine(ByteReader& in, Manifest& manifest) {
  TRY(manifest.machine_version, in.get<std::uint32_t>());
  TRY(manifest.vcpus, in.get<std::uint32_t>());
  TRY(manifest.memory, in.get<std::uint64_t>());
  for (bool* flag : {&manifest.hugetlb, &manifest.cpu.sve, &manifest.cpu.pauth, &manifest.cpu.pmu,
                     &manifest.virtio_console, &manifest.rng, &manifest.balloon}) {
    TRY(*flag, in.get_bool());
  }
  TRY(get_devices(in, manifest.disks, get_disk));
  return get_devices(in, manifest.nets, get_net);
}

void put_machine(ByteWriter& out, const Manifest& manifest) {
  out.put(manifest.machine_version);
  out.put(manifest.vcpus);
  out.put(manifest.memory);
  for (const bool flag : {manifest.hugetlb, manifest.cpu.sve, manifest.cpu.pauth, manifest.cpu.pmu,
                          manifest.virtio_console, manifest.rng, manifest.balloon}) {
    out.put_bool(flag);
  }
  put_devices(out, manifest.disks);
  put_devices(out, manifest.nets);
}

}  // namespace

Result<> check(const Manifest& manifest) {
  TRY(check_name("guest", manifest.guest));
  TRY(check_range("vcpus", manifest.vcpus, 1, kMaxManifestVcpus));
  TRY(check_range("memory", manifest.memory, kManifestMemoryUnit, kMaxManifestMemory));
  if (manifest.memory % kManifestMemoryUnit != 0) {
    return fail(ErrorKind::kFailed, "manifest: memory is {}, which is no multiple of {}",
                manifest.memory, kManifestMemoryUnit);
  }
  TRY(check_range("disks", manifest.disks.size(), 0, kMaxManifestDevices));
  TRY(check_range("nets", manifest.nets.size(), 0, kMaxManifestDevices));
  TRY(check_ids("disk.id", manifest.disks));
  for (const auto& disk : manifest.disks) {
    TRY(check_disk(disk));
  }
  TRY(check_ids("net.id", manifest.nets));
  for (const auto& net : manifest.nets) {
    TRY(check_net(net));
  }
  TRY(check_file_name("boot.kernel", manifest.boot.kernel));
  if (!manifest.boot.initrd.empty()) {
    TRY(check_file_name("boot.initrd", manifest.boot.initrd));
  }
  if (manifest.boot.cmdline.size() > kMaxManifestCmdline ||
      manifest.boot.cmdline.find('\0') != std::string::npos) {
    return fail(ErrorKind::kFailed,
                "manifest: boot.cmdline is longer than {} bytes or has zeros in it",
                kMaxManifestCmdline);
  }
  TRY(check_range("page_size", manifest.page_size, kMinPageSize, kMaxPageSize));
  if (!is_power_of_two(manifest.page_size)) {
    return fail(ErrorKind::kFailed, "manifest: page_size is {}, which is no power of two",
                manifest.page_size);
  }
  TRY(check_text("vmm_version", manifest.vmm_version, kMaxManifestVersion));
  TRY(check_text("kernel_version", manifest.kernel_version, kMaxManifestVersion));
  TRY(check_range("cpu_identity", manifest.cpu_identity.size(), 0, kMaxManifestCpuIdentity));
  return check_range("channels", manifest.channels, 1, kMaxDataChannels);
}

Result<std::vector<std::byte>> encode(const Manifest& manifest) {
  TRY(check(manifest));
  ByteWriter out;
  out.put_bytes(manifest.id.bytes());
  out.put_string(manifest.guest);
  put_machine(out, manifest);
  out.put_string(manifest.boot.kernel);
  out.put_string(manifest.boot.initrd);
  out.put_string(manifest.boot.cmdline);
  out.put(manifest.page_size);
  out.put_string(manifest.vmm_version);
  out.put_string(manifest.kernel_version);
  out.put_blob(manifest.cpu_identity);
  out.put(manifest.channels);
  out.put_bool(manifest.paused);
  return out.take();
}

Result<Manifest> decode_manifest(std::span<const std::byte> bytes) {
  ByteReader in(bytes);
  Manifest manifest;
  TRY(const auto id, in.get_array<MigrationId::kBytes>());
  manifest.id = MigrationId(id);
  TRY(manifest.guest, in.get_string(kMaxManifestName));
  TRY(get_machine(in, manifest));
  TRY(manifest.boot.kernel, in.get_string(kMaxManifestFileName));
  TRY(manifest.boot.initrd, in.get_string(kMaxManifestFileName));
  TRY(manifest.boot.cmdline, in.get_string(kMaxManifestCmdline));
  TRY(manifest.page_size, in.get<std::uint32_t>());
  TRY(manifest.vmm_version, in.get_string(kMaxManifestVersion));
  TRY(manifest.kernel_version, in.get_string(kMaxManifestVersion));
  TRY(const auto identity, in.get_blob(kMaxManifestCpuIdentity));
  manifest.cpu_identity.assign(identity.begin(), identity.end());
  TRY(manifest.channels, in.get<std::uint16_t>());
  TRY(manifest.paused, in.get_bool());
  TRY(in.expect_end());
  TRY(check(manifest));
  return manifest;
}

}  // namespace vmm::migration
