#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"
#include "base/thread_annotations.h"
#include "devices/virtio/queue.h"

namespace vmm::virtio {

// What a device asks of the transport it sits behind. Called with the device's mutex held.
class Transport {
 public:
  virtual ~Transport() = default;

  // Tells the driver that requests have come back, or that the configuration space has changed.
  virtual void notify_used() = 0;
  virtual void notify_config() = 0;
  // The driver has broken the protocol: DEVICE_NEEDS_RESET, and no queue is touched until then.
  virtual void needs_reset(const Error& reason) = 0;
  // Has process(queue) called again after other work of the event loop.
  virtual void process_again(unsigned queue) = 0;
};

// A counter for `vmm stats`.
struct Counter {
  std::string_view name;
  std::uint64_t value;
};

// A kind of virtio device behind any transport.
//
//              activate()             quiesce()
//   inactive ------------> active <--------------> quiet
//      ^                     |          resume()     |
//      '------- reset() -----'-----------------------'
//
// The transport holds mutex_ when it calls one of the functions below that require it; the device
// takes it in the handlers it has on the event loop, and looks at active() before it touches a
// queue. Calls come from vCPU threads and the event loop.
class VirtioDevice {
 public:
  VirtioDevice() = default;
  VirtioDevice(const VirtioDevice&) = delete;
  VirtioDevice& operator=(const VirtioDevice&) = delete;
  virtual ~VirtioDevice() = default;

  // Stable name within the machine, for messages and saved state ("disk.root").
  [[nodiscard]] virtual std::string_view name() const = 0;
  // VIRTIO_ID_*.
  [[nodiscard]] virtual std::uint32_t type() const = 0;
  // What the device itself offers; the transport adds what is its own (virtio 1.2, 6).
  [[nodiscard]] virtual std::uint64_t offered_features() const = 0;
  [[nodiscard]] virtual std::span<const QueueLimits> queue_limits() const = 0;
  // Threads: any, takes the mutex.
  [[nodiscard]] virtual std::vector<Counter> counters() const VMM_EXCLUDES(mutex_) = 0;

 protected:
  friend class MmioTransport;

  // The device's configuration space: any offset and 1, 2, 4 or 8 bytes, which need not lie in it;
  // what does not reads as zero and is ignored when written.
  virtual void read_config(std::uint64_t offset, std::span<std::byte> data) const
      VMM_REQUIRES(mutex_) = 0;
  virtual void write_config(std::uint64_t offset, std::span<const std::byte> data)
      VMM_REQUIRES(mutex_) = 0;

  // DRIVER_OK: features() and the queues are there. What is in the queues already is processed by
  // calls of process(), which follow.
  virtual void activate() VMM_REQUIRES(mutex_) = 0;
  // The driver has kicked a queue (which exists). Handles a bounded number of requests; where more
  // are waiting, it calls Transport::process_again(). Threads: the event loop.
  virtual void process(unsigned queue) VMM_REQUIRES(mutex_) = 0;
  // Back to power-on. On return nothing of the device touches guest memory any more; requests under
  // way are waited for or dropped.
  virtual void reset() VMM_REQUIRES(mutex_) = 0;
  // Completes or puts back what is under way, in whatever state the device is; on return neither
  // queues nor guest memory change any more until resume(). Input that arrives meanwhile waits
  // outside. Threads: the event loop, with vCPUs paused.
  virtual void quiesce() VMM_REQUIRES(mutex_) = 0;
  // Goes on; process() follows for every queue if the device is active.
  virtual void resume() VMM_REQUIRES(mutex_) = 0;

  // What the device keeps beyond features and queues: a version (u32), then fields. restore_state()
  // checks all of it, the end included, before it takes anything over; it comes before activate(),
  // while quiet.
  virtual void save_state(ByteWriter& writer) const VMM_REQUIRES(mutex_) = 0;
  [[nodiscard]] virtual Result<> restore_state(ByteReader& reader) VMM_REQUIRES(mutex_) = 0;

  // For devices. Between DRIVER_OK and reset, and not after needs_reset() or while quiet:
  [[nodiscard]] bool active() const VMM_REQUIRES(mutex_) { return active_; }
  // Features that device and driver agreed on; 0 before DRIVER_OK.
  [[nodiscard]] std::uint64_t features() const VMM_REQUIRES(mutex_) { return features_; }
  [[nodiscard]] bool has_feature(unsigned bit) const VMM_REQUIRES(mutex_) {
    return (features_ >> bit & 1) != 0;
  }
  // The queue, or null where the driver has not set it up.
  [[nodiscard]] Queue* queue(unsigned index) VMM_REQUIRES(mutex_) {
    return index < queues_.size() && queues_[index] ? &*queues_[index] : nullptr;
  }
  // Publishes what was pushed to a queue and interrupts the driver where it wants that.
  void publish(Queue& queue) VMM_REQUIRES(mutex_) {
    if (queue.publish()) transport_->notify_used();
  }
  [[nodiscard]] Transport& transport() VMM_REQUIRES(mutex_) { return *transport_; }

  mutable Mutex mutex_;

 private:
  Transport* transport_ VMM_GUARDED_BY(mutex_) = nullptr;
  bool active_ VMM_GUARDED_BY(mutex_) = false;
  std::uint64_t features_ VMM_GUARDED_BY(mutex_) = 0;
  std::vector<std::optional<Queue>> queues_ VMM_GUARDED_BY(mutex_);
};

}  // namespace vmm::virtio
