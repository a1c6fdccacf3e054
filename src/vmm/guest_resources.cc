#include "vmm/guest_resources.h"

#include <fmt/format.h>

#include "devices/tap.h"

namespace vmm {
namespace {

Result<std::unique_ptr<Tap>> open_tap(const GuestConfig::Net& net) {
  if (const auto* name = std::get_if<std::string>(&net.tap)) return Tap::open_by_name(*name);
  return Tap::adopt(Fd(std::get<int>(net.tap)));
}

}  // namespace

Result<GuestResources> GuestResources::open(const GuestConfig& config) {
  GuestResources resources;
  for (const auto& disk : config.disks) {
    auto image = DiskImage::open({disk.path.string(), disk.readonly, disk.direct});
    if (!image) {
      return fail(std::move(image).error().add_context(fmt::format("disk {}", disk.id)));
    }
    resources.disks.push_back(std::move(image).value());
  }
  for (const auto& net : config.nets) {
    auto tap = open_tap(net);
    if (!tap) return fail(std::move(tap).error().add_context(fmt::format("net {}", net.id)));
    resources.ports.push_back(std::move(tap).value());
  }
  return resources;
}

}  // namespace vmm
