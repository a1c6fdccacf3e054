#pragma once

#include <memory>
#include <vector>

#include "base/result.h"
#include "devices/disk_image.h"
#include "devices/packet_port.h"
#include "vmm/guest_config.h"

namespace vmm {

// What a guest uses of its host. It is opened before the guest starts, and kept while the machine
// is made anew at a reboot, so that nobody else gets hold of a disk or tap in between.
struct GuestResources {
  std::vector<std::unique_ptr<DiskImage>> disks;   // as in GuestConfig::disks
  std::vector<std::unique_ptr<PacketPort>> ports;  // as in GuestConfig::nets

  // Opens everything; the error names the device.
  [[nodiscard]] static Result<GuestResources> open(const GuestConfig& config);
};

}  // namespace vmm
