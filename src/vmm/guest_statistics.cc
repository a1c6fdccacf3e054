#include "vmm/guest_statistics.h"

#include <unistd.h>

#include <boost/json/array.hpp>

#include <fstream>

namespace vmm {
namespace json = boost::json;

namespace {

// Resident memory of this process, in bytes.
std::uint64_t resident_memory() {
  std::ifstream statm("/proc/self/statm");
  std::uint64_t size = 0;
  std::uint64_t resident = 0;
  statm >> size >> resident;
  return resident * static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
}

std::string_view to_string(VcpuThread::State state) {
  switch (state) {
    case VcpuThread::State::kPaused:
      return "paused";
    case VcpuThread::State::kRunning:
      return "running";
    case VcpuThread::State::kStopped:
      break;
  }
  return "stopped";
}

}  // namespace

json::object describe(const GuestConfig& config, const Guest& guest) {
  return {{"name", config.name},     {"state", to_string(guest.state())},   {"vcpus", config.vcpus},
          {"memory", config.memory}, {"uptime_ms", guest.uptime().count()}, {"pid", ::getpid()},
          {"version", VMM_VERSION}};
}

json::object statistics(const GuestConfig& config, const Guest& guest, const Console& serial,
                        const Console& virtio) {
  json::object stats = describe(config, guest);
  stats["reboots"] = guest.reboots();
  stats["resident"] = resident_memory();
  stats["console_bytes"] = serial.output_bytes() + virtio.output_bytes();
  stats["console_dropped_bytes"] = serial.dropped_bytes() + virtio.dropped_bytes();
  json::array vcpus;
  for (const auto& vcpu : guest.vcpu_stats()) {
    vcpus.push_back(json::object{{"state", to_string(vcpu.state)},
                                 {"cpu_ms", vcpu.cpu_time_ns / 1'000'000},
                                 {"mmio_reads", vcpu.mmio_reads},
                                 {"mmio_writes", vcpu.mmio_writes},
                                 {"unclaimed", vcpu.unclaimed},
                                 {"undecoded", vcpu.undecoded},
                                 {"interrupted", vcpu.interrupted}});
  }
  stats["vcpu"] = std::move(vcpus);
  json::array devices;
  for (const auto& device : guest.device_stats()) {
    json::object counters;
    for (const auto& [counter, value] : device.counters) counters[counter] = value;
    devices.push_back(json::object{{"name", device.name}, {"counters", std::move(counters)}});
  }
  stats["devices"] = std::move(devices);
  return stats;
}

}  // namespace vmm
