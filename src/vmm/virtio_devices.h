#pragma once

#include <memory>
#include <vector>

#include "base/result.h"
#include "devices/event_loop.h"
#include "devices/serial_sink.h"
#include "devices/virtio/balloon.h"
#include "devices/virtio/console.h"
#include "devices/virtio/device.h"
#include "devices/virtio/net.h"
#include "memory/guest_memory.h"
#include "vmm/guest_config.h"
#include "vmm/guest_resources.h"

namespace vmm {

// The virtio devices of a machine, in the order of their slots: disks, nets, entropy, balloon,
// console. The order is part of what the guest sees, and of saved state.
struct VirtioDevices {
  std::vector<std::unique_ptr<virtio::VirtioDevice>> slots;
  // Those of them that the machine speaks to; null where the guest has none.
  std::vector<virtio::Net*> nets;
  virtio::Balloon* balloon = nullptr;
  virtio::Console* console = nullptr;
};

// resources are those of the configuration; they and all else must outlive the devices.
[[nodiscard]] Result<VirtioDevices> make_virtio_devices(const GuestConfig& config,
                                                        const GuestResources& resources,
                                                        GuestMemory& memory, EventLoop& loop,
                                                        SerialSink& console_output);

}  // namespace vmm
