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

  // Opens everything; errors name the device.
  [[nodiscard]] static Result<GuestResources> open(const GuestConfig& config);
  // The same for a guest that still runs elsewhere: its disks are looked at only, and not opened
  // before reacquire_disks(), and a tap that does not exist is an error.
  [[nodiscard]] static Result<GuestResources> prepare(const GuestConfig& config);

  // Makes the disks durable and gives them up, all or none. Requests must have been drained.
  [[nodiscard]] Result<> release_disks();
  // Takes all of them, or none. Error where another process has taken one in the meantime.
  [[nodiscard]] Result<> reacquire_disks();
};

}  // namespace vmm
