#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "base/fd.h"
#include "base/thread_annotations.h"
#include "devices/device.h"
#include "devices/event_loop.h"
#include "devices/interrupt_line.h"
#include "devices/mmio.h"
#include "devices/virtio/device.h"
#include "memory/guest_memory.h"

namespace vmm::virtio {

// The virtio-mmio transport, version 2 (virtio 1.2, 4.2), with a device behind it.
//
// What the driver says about features and queues is frozen by FEATURES_OK and DRIVER_OK; from then
// on only a reset changes it. A driver that breaks the protocol gets DEVICE_NEEDS_RESET, and a line
// in the log the first time. Registers are accessed by vCPU threads; kicks arrive at kick_fd() and
// are handled on the event loop.
class MmioTransport final : public Device, public MmioDevice, private Transport {
 public:
  static constexpr std::uint64_t kWindow = 0x200;

  // memory, interrupt and loop must outlive the transport. Threads: the event loop's. Error where
  // the host has no descriptors left.
  [[nodiscard]] static Result<std::unique_ptr<MmioTransport>> create(
      std::unique_ptr<VirtioDevice> device, GuestMemory& memory, EdgeInterrupt& interrupt,
      EventLoop& loop);

  [[nodiscard]] std::string_view name() const override { return device_->name(); }
  void reset() override;
  void save(ByteWriter& writer) const override;
  // Of a stopped transport that was not used since create() or reset().
  [[nodiscard]] Result<> restore(ByteReader& reader) override;

  void mmio_read(std::uint64_t offset, std::span<std::byte> data) override;
  void mmio_write(std::uint64_t offset, std::span<const std::byte> data) override;

  // Stops the device at a point where its state can be saved, and lets it go on. Both do nothing
  // when repeated. Threads: the event loop, with vCPUs paused. A transport starts stopped.
  void quiesce();
  void resume();

  [[nodiscard]] VirtioDevice& device() { return *device_; }
  // Eventfds that are written to at a kick of queue n; the kick is a write of n to kNotifyOffset.
  static constexpr std::uint64_t kNotifyOffset = 0x50;
  [[nodiscard]] std::size_t queue_count() const { return kicks_.size(); }
  [[nodiscard]] const Fd& kick_fd(std::size_t queue) const { return kicks_[queue].fd; }

 private:
  struct Kick {
    Fd fd;
    std::unique_ptr<Watch> watch;
  };

  // What the driver can observe, but for the progress of live queues.
  struct State {
    std::uint32_t status = 0;
    std::uint64_t driver_features = 0;
    std::uint32_t device_features_select = 0;
    std::uint32_t driver_features_select = 0;
    std::uint32_t queue_select = 0;
    std::uint32_t interrupt_status = 0;
    std::uint32_t config_generation = 0;
    std::vector<SavedQueue> queues;
  };

  MmioTransport(std::unique_ptr<VirtioDevice> device, GuestMemory& memory,
                EdgeInterrupt& interrupt);

  void notify_used() override;
  void notify_config() override;
  void needs_reset(const Error& reason) override;
  void process_again(unsigned queue) override;

  // All of these want the device's mutex held.
  [[nodiscard]] std::uint64_t offered_features() const;
  [[nodiscard]] bool acceptable(std::uint64_t features) const;
  [[nodiscard]] std::uint32_t read_register(std::uint64_t offset) const;
  void write_register(std::uint64_t offset, std::uint32_t value);
  void write_driver_features(std::uint32_t value);
  void write_queue_register(std::uint64_t offset, std::uint32_t value);
  void write_status(std::uint32_t value);
  void activate();
  [[nodiscard]] Result<std::vector<std::optional<Queue>>> make_queues(const State& state) const;
  void start(std::vector<std::optional<Queue>> queues);
  void update_active();
  void reset_locked();
  void raise(std::uint32_t cause);
  void kick_all();
  [[nodiscard]] Result<State> decode(ByteReader& reader) const;

  void on_kick(unsigned queue);

  const std::unique_ptr<VirtioDevice> device_;
  GuestMemory& memory_;
  EdgeInterrupt& interrupt_;
  std::vector<Kick> kicks_;

  // Under the device's mutex.
  State state_;
  bool quiet_ = true;
  bool complained_ = false;
};

}  // namespace vmm::virtio
