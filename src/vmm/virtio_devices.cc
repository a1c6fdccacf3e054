#include "vmm/virtio_devices.h"

#include "devices/io_engine.h"
#include "devices/virtio/blk.h"
#include "devices/virtio/rng.h"

namespace vmm {

Result<VirtioDevices> make_virtio_devices(const GuestConfig& config,
                                          const GuestResources& resources, GuestMemory& memory,
                                          EventLoop& loop, SerialSink& console_output) {
  VirtioDevices devices;
  for (std::size_t n = 0; n < config.disks.size(); ++n) {
    const auto& disk = config.disks[n];
    TRY(auto engine, make_io_engine(virtio::Blk::kQueueSize));
    TRY(auto device, virtio::Blk::create({"disk." + disk.id, disk.serial}, *resources.disks[n],
                                         std::move(engine), memory, loop));
    devices.slots.push_back(std::move(device));
  }
  for (std::size_t n = 0; n < config.nets.size(); ++n) {
    const auto& net = config.nets[n];
    const auto mac = net.mac.value_or(MacAddress::derive(config.name, net.id));
    auto device = std::make_unique<virtio::Net>("net." + net.id, *resources.ports[n], mac, loop);
    devices.nets.push_back(device.get());
    devices.slots.push_back(std::move(device));
  }
  if (config.rng) devices.slots.push_back(std::make_unique<virtio::Rng>("rng", loop));
  if (config.balloon) {
    auto device = std::make_unique<virtio::Balloon>(memory, loop);
    devices.balloon = device.get();
    devices.slots.push_back(std::move(device));
  }
  if (config.virtio_console) {
    auto device = std::make_unique<virtio::Console>(console_output);
    devices.console = device.get();
    devices.slots.push_back(std::move(device));
  }
  return devices;
}

}  // namespace vmm
