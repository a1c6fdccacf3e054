#include "vmm/guest_resources.h"

#include <fmt/format.h>
#include <net/if.h>

#include "devices/tap.h"

namespace vmm {
namespace {

Result<std::unique_ptr<Tap>> open_tap(const GuestConfig::Net& net) {
  if (const auto* name = std::get_if<std::string>(&net.tap)) return Tap::open_by_name(*name);
  return Tap::adopt(Fd(std::get<int>(net.tap)));
}

using ImageOpener = Result<std::unique_ptr<DiskImage>> (*)(const DiskImageOptions&);

Result<GuestResources> open_with(const GuestConfig& config, ImageOpener open_image) {
  GuestResources resources;
  for (const auto& disk : config.disks) {
    auto image = open_image({disk.path.string(), disk.readonly, disk.direct});
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

}  // namespace

Result<GuestResources> GuestResources::open(const GuestConfig& config) {
  return open_with(config, &DiskImage::open);
}

Result<GuestResources> GuestResources::prepare(const GuestConfig& config) {
  for (const auto& net : config.nets) {
    // Opening one would make it, and the guest would arrive with its network connected to nothing.
    const auto* name = std::get_if<std::string>(&net.tap);
    if (name != nullptr && ::if_nametoindex(name->c_str()) == 0) {
      return fail(ErrorKind::kUsage, "net {}: there is no tap {} here", net.id, *name);
    }
  }
  return open_with(config, &DiskImage::prepare);
}

Result<> GuestResources::release_disks() {
  for (const auto& disk : disks) {
    if (auto released = disk->release(); !released) {
      auto error = std::move(released).error();
      // What this process held a moment ago nobody can have taken yet, unless the disk is broken.
      if (const auto taken = reacquire_disks(); !taken) {
        error.add_context(taken.error().message());
      }
      return fail(std::move(error));
    }
  }
  return success();
}

Result<> GuestResources::reacquire_disks() {
  std::vector<DiskImage*> taken;
  for (const auto& disk : disks) {
    if (disk->held()) continue;
    if (auto result = disk->reacquire(); !result) {
      auto error = std::move(result).error();
      for (DiskImage* image : taken) {
        if (const auto released = image->release(); !released) {
          error.add_context(released.error().message());
        }
      }
      return fail(std::move(error));
    }
    taken.push_back(disk.get());
  }
  return success();
}

}  // namespace vmm
