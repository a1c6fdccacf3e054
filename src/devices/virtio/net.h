#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/thread_annotations.h"
#include "devices/event_loop.h"
#include "devices/mac_address.h"
#include "devices/packet_port.h"
#include "devices/virtio/device.h"
#include "devices/virtio/net_receiver.h"

namespace vmm::virtio {

// The network device (virtio 1.2, 5.1): one pair of queues and a control queue, with checksum and
// segmentation offload as the port has them, mergeable receive buffers and announcements.
//
// Frames go between guest memory and the port without a copy. Without receive buffers nothing is
// read from the port: frames wait there.
class Net final : public VirtioDevice {
 public:
  // port and loop must outlive the device; only one device at a time uses a port. Threads: the
  // event loop's.
  Net(std::string name, PacketPort& port, const MacAddress& mac, EventLoop& loop);

  // Makes the guest's address known where it now is, as after a migration: sends a RARP request in
  // the guest's name, and has the guest announce its addresses itself where its driver can. May be
  // repeated, since such frames get lost. Threads: any.
  void announce() VMM_EXCLUDES(mutex_);

  [[nodiscard]] std::string_view name() const override { return name_; }
  [[nodiscard]] std::uint32_t type() const override;
  [[nodiscard]] std::uint64_t offered_features() const override { return offered_; }
  [[nodiscard]] std::span<const QueueLimits> queue_limits() const override;
  [[nodiscard]] std::vector<Counter> counters() const override VMM_EXCLUDES(mutex_);

 protected:
  void read_config(std::uint64_t offset, std::span<std::byte> data) const override
      VMM_REQUIRES(mutex_);
  void write_config(std::uint64_t, std::span<const std::byte>) override VMM_REQUIRES(mutex_) {}
  void activate() override VMM_REQUIRES(mutex_);
  void process(unsigned index) override VMM_REQUIRES(mutex_);
  void reset() override VMM_REQUIRES(mutex_);
  void quiesce() override VMM_REQUIRES(mutex_);
  void resume() override VMM_REQUIRES(mutex_);
  void save_state(ByteWriter& writer) const override VMM_REQUIRES(mutex_);
  [[nodiscard]] Result<> restore_state(ByteReader& reader) override VMM_REQUIRES(mutex_);

 private:
  // What the guest observes.
  struct State {
    bool link_up = true;
    bool announce_wanted = false;
    std::uint64_t guest_offloads = 0;  // VIRTIO_NET_F_GUEST_*, in use
  };

  void on_readable() VMM_EXCLUDES(mutex_);
  void on_retry() VMM_EXCLUDES(mutex_);
  void receive() VMM_REQUIRES(mutex_);
  void listen(bool on) VMM_REQUIRES(mutex_);
  void transmit() VMM_REQUIRES(mutex_);
  // Sends a frame or drops it; false where the port is busy.
  [[nodiscard]] bool send(const Chain& chain) VMM_REQUIRES(mutex_);
  void control() VMM_REQUIRES(mutex_);
  // Answers a command; returns the bytes written.
  [[nodiscard]] std::uint32_t answer(const Chain& chain) VMM_REQUIRES(mutex_);
  // Carries a command out; false where it is unknown or malformed.
  [[nodiscard]] bool command(std::span<const std::byte> request) VMM_REQUIRES(mutex_);
  void set_guest_offloads(std::uint64_t features) VMM_REQUIRES(mutex_);
  void have_port_prepare(std::uint64_t features) VMM_REQUIRES(mutex_);
  void port_lost() VMM_REQUIRES(mutex_);
  void driver_broke(const Error& error) VMM_REQUIRES(mutex_);

  const std::string name_;
  PacketPort& port_;
  const MacAddress mac_;
  const std::optional<std::uint16_t> mtu_;
  const std::uint64_t offered_;
  const std::unique_ptr<Watch> readable_;
  const std::unique_ptr<LoopTimer> retry_;

  State state_ VMM_GUARDED_BY(mutex_);
  NetReceiver receiver_ VMM_GUARDED_BY(mutex_);
  bool listening_ VMM_GUARDED_BY(mutex_) = false;  // the port is watched for frames
  bool port_is_lost_ VMM_GUARDED_BY(mutex_) = false;
  Chain chain_ VMM_GUARDED_BY(mutex_);

  std::uint64_t tx_packets_ VMM_GUARDED_BY(mutex_) = 0;
  std::uint64_t tx_bytes_ VMM_GUARDED_BY(mutex_) = 0;
  std::uint64_t tx_dropped_ VMM_GUARDED_BY(mutex_) = 0;
  std::uint64_t rx_no_buffers_ VMM_GUARDED_BY(mutex_) = 0;
};

}  // namespace vmm::virtio
