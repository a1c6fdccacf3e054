#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "devices/virtio/balloon.h"
#include "devices/virtio/device.h"
#include "vmm/movable_machine.h"
#include "vmm/vcpu_thread.h"

namespace vmm {

// What one vCPU has done so far.
struct VcpuStats {
  VcpuThread::State state;
  std::uint64_t cpu_time_ns;  // processor time of its thread
  std::uint64_t mmio_reads;
  std::uint64_t mmio_writes;
  std::uint64_t unclaimed;
  std::uint64_t undecoded;
  std::uint64_t interrupted;
};

// What one virtio device has done so far.
struct DeviceStats {
  std::string name;
  std::vector<virtio::Counter> counters;
};

// A machine from power-on to power-off; a reset makes a new one. It starts paused. All methods are
// for the event loop.
class Machine {
 public:
  // Called on a vCPU's thread, which has stopped running the guest; must not block.
  using EventHandler = VcpuThread::EventHandler;

  Machine() = default;
  Machine(const Machine&) = delete;
  Machine& operator=(const Machine&) = delete;
  virtual ~Machine() = default;

  virtual void resume() = 0;
  // Returns when no vCPU runs the guest any more and no device touches its memory.
  virtual void pause() = 0;
  virtual void set_power_key(bool pressed) = 0;
  // Offers console input; returns how many bytes were taken.
  [[nodiscard]] virtual std::size_t serial_input(std::span<const std::byte> bytes) = 0;
  [[nodiscard]] virtual std::size_t virtio_console_input(std::span<const std::byte> bytes) = 0;
  // Of the virtio console, in characters.
  virtual void set_console_size(std::uint16_t cols, std::uint16_t rows) = 0;
  // Null where the guest has none.
  [[nodiscard]] virtual virtio::Balloon* balloon() = 0;
  [[nodiscard]] virtual MovableMachine& movable() = 0;
  [[nodiscard]] virtual std::vector<VcpuStats> vcpu_stats() const = 0;
  [[nodiscard]] virtual std::vector<DeviceStats> device_stats() const = 0;
};

}  // namespace vmm
