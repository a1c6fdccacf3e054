#include "vmm/guest_config_devices.h"

#include "vmm/layout.h"
#include "vmm/toml_reader.h"

namespace vmm {
namespace {

constexpr std::size_t kMaxSerial = 20;   // VIRTIO_BLK_ID_BYTES
constexpr std::size_t kMaxTapName = 15;  // IFNAMSIZ without the terminating zero

// The id that a device must have, in no other table of its kind.
template <typename Device>
Result<std::string> parse_id(TableReader& table, const std::vector<Device>& others) {
  TRY(const auto id, table.get_string("id"));
  if (!id) return fail(table.error_here("id is missing"));
  if (const auto checked = check_guest_name(*id); !checked) {
    return fail(table.error_for("id", checked.error().message()));
  }
  const auto taken = [&id](const Device& other) { return other.id == *id; };
  if (std::ranges::any_of(others, taken)) return fail(table.error_for("id", "is taken already"));
  return *id;
}

Result<GuestConfig::Disk> parse_disk(TableReader& table, const std::filesystem::path& folder,
                                     const GuestConfig& config) {
  GuestConfig::Disk disk;
  TRY(disk.id, parse_id(table, config.disks));
  TRY(const auto path, table.get_path("path", folder));
  if (!path) return fail(table.error_here("disk.path is missing"));
  disk.path = *path;
  TRY(const auto direct, table.get_bool("direct"));
  disk.direct = direct.value_or(false);
  TRY(const auto readonly, table.get_bool("readonly"));
  disk.readonly = readonly.value_or(false);
  TRY(const auto serial, table.get_string("serial"));
  if (serial) {
    if (serial->empty() || serial->size() > kMaxSerial) {
      return fail(table.error_for("serial", fmt::format("must be 1 to {} bytes", kMaxSerial)));
    }
    TRY(table.refuse_zero("serial", *serial));
  }
  disk.serial = serial.value_or(disk.id.substr(0, kMaxSerial));
  TRY(table.refuse_unknown_keys());
  return disk;
}

Result<GuestConfig::Net> parse_net(TableReader& table, const GuestConfig& config) {
  GuestConfig::Net net;
  TRY(net.id, parse_id(table, config.nets));
  TRY(const auto tap, table.get_string("tap"));
  TRY(const auto fd, table.get<std::int64_t>("fd", "an integer"));
  if (tap.has_value() == fd.has_value()) {
    return fail(table.error_here("a net has either a tap (its name) or an fd (a number)"));
  }
  if (tap) {
    if (tap->empty() || tap->size() > kMaxTapName ||
        tap->find_first_of(std::string_view("/ \0", 3)) != std::string::npos) {
      return fail(table.error_for(
          "tap", fmt::format("must be 1 to {} characters without / or space", kMaxTapName)));
    }
    net.tap = *tap;
  } else {
    if (*fd < 0 || *fd > INT_MAX) return fail(table.error_for("fd", "is not a descriptor"));
    net.tap = static_cast<int>(*fd);
  }
  TRY(const auto mac, table.get_string("mac"));
  if (mac) {
    const auto parsed = MacAddress::parse(*mac);
    if (!parsed) return fail(table.error_for("mac", parsed.error().message()));
    net.mac = parsed.value();
  }
  TRY(table.refuse_unknown_keys());
  return net;
}

Result<bool> parse_enabled(TableReader& root, std::string_view key, bool otherwise) {
  TRY(auto table, root.get_table(key));
  TRY(const auto enabled, table.get_bool("enabled"));
  TRY(table.refuse_unknown_keys());
  return enabled.value_or(otherwise);
}

}  // namespace

unsigned virtio_device_count(const GuestConfig& config) {
  const std::size_t others =
      (config.rng ? 1U : 0U) + (config.balloon ? 1U : 0U) + (config.virtio_console ? 1U : 0U);
  return static_cast<unsigned>(config.disks.size() + config.nets.size() + others);
}

Result<> parse_devices(TableReader& root, const std::filesystem::path& folder,
                       GuestConfig& config) {
  TRY(auto disks, root.get_tables("disk"));
  for (TableReader& table : disks) {
    TRY(auto disk, parse_disk(table, folder, config));
    config.disks.push_back(std::move(disk));
  }
  TRY(auto nets, root.get_tables("net"));
  for (TableReader& table : nets) {
    TRY(auto net, parse_net(table, config));
    config.nets.push_back(std::move(net));
  }
  TRY(config.rng, parse_enabled(root, "rng", true));
  TRY(config.balloon, parse_enabled(root, "balloon", false));
  const unsigned count = virtio_device_count(config);
  if (count > layout::kVirtioSlots) {
    return fail(root.error_here(fmt::format("{} virtio devices, there are interrupts for {}", count,
                                            layout::kVirtioSlots)));
  }
  return success();
}

}  // namespace vmm
