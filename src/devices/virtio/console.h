#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "base/thread_annotations.h"
#include "devices/serial_sink.h"
#include "devices/virtio/device.h"

namespace vmm::virtio {

// A console with one port (virtio 1.2, 5.3), hvc0 in Linux.
//
// Nothing is lost on the way in: receive() takes only what fits in the buffers that the driver has
// put up, and on_rx_space tells when there are more. Linux keeps what it has received until
// somebody opens the console.
class Console final : public VirtioDevice {
 public:
  // sink must outlive the device.
  explicit Console(SerialSink& sink);

  // Sets what is called once bytes that receive() refused may be offered again. It is called on the
  // event loop with the device's mutex held, so it must not call the device back, and it may come
  // without need. Threads: call this before the device is used.
  void set_on_rx_space(std::function<void()> on_rx_space);

  // Input for the guest: returns how many bytes went into its buffers, 0 while there is no driver.
  // Threads: the event loop.
  [[nodiscard]] std::size_t receive(std::span<const std::byte> bytes) VMM_EXCLUDES(mutex_);
  // Tells the guest the size of the terminal in characters; 0 is unknown. While the device is quiet
  // it comes into force with resume(). Call it once the device is behind its transport. Threads:
  // the event loop.
  void set_size(std::uint16_t cols, std::uint16_t rows) VMM_EXCLUDES(mutex_);

  [[nodiscard]] std::string_view name() const override { return "console"; }
  [[nodiscard]] std::uint32_t type() const override;
  [[nodiscard]] std::uint64_t offered_features() const override;
  [[nodiscard]] std::span<const QueueLimits> queue_limits() const override;
  [[nodiscard]] std::vector<Counter> counters() const override VMM_EXCLUDES(mutex_);

 protected:
  void read_config(std::uint64_t offset, std::span<std::byte> data) const override
      VMM_REQUIRES(mutex_);
  void write_config(std::uint64_t, std::span<const std::byte>) override VMM_REQUIRES(mutex_) {}
  void activate() override VMM_REQUIRES(mutex_) {}
  void process(unsigned index) override VMM_REQUIRES(mutex_);
  void reset() override VMM_REQUIRES(mutex_) {}
  void quiesce() override VMM_REQUIRES(mutex_);
  void resume() override VMM_REQUIRES(mutex_);
  void save_state(ByteWriter& writer) const override VMM_REQUIRES(mutex_);
  [[nodiscard]] Result<> restore_state(ByteReader& reader) override VMM_REQUIRES(mutex_);

 private:
  struct Size {
    std::uint16_t cols = 0;
    std::uint16_t rows = 0;
    [[nodiscard]] bool operator==(const Size&) const = default;
  };

  [[nodiscard]] std::size_t fill(Queue& queue, std::span<const std::byte> bytes)
      VMM_REQUIRES(mutex_);
  void offer_space(Queue& queue) VMM_REQUIRES(mutex_);
  void transmit(Queue& queue) VMM_REQUIRES(mutex_);
  void apply_size() VMM_REQUIRES(mutex_);

  SerialSink& sink_;
  std::function<void()> on_rx_space_;
  Chain chain_ VMM_GUARDED_BY(mutex_);
  Size size_ VMM_GUARDED_BY(mutex_);
  // What set_size() was told, until it is in force.
  std::optional<Size> new_size_ VMM_GUARDED_BY(mutex_);
  bool quiet_ VMM_GUARDED_BY(mutex_) = true;
  // receive() has refused bytes since on_rx_space was called last.
  bool input_refused_ VMM_GUARDED_BY(mutex_) = false;
  std::uint64_t input_bytes_ VMM_GUARDED_BY(mutex_) = 0;
  std::uint64_t output_bytes_ VMM_GUARDED_BY(mutex_) = 0;
};

}  // namespace vmm::virtio
