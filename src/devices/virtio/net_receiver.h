#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/result.h"
#include "devices/packet_port.h"
#include "devices/virtio/queue.h"

namespace vmm::virtio {

// Moves frames from a port straight into the receive buffers of a virtio-net driver.
//
// How large the next frame is shows only when it has been read. Buffers are therefore taken from
// the queue ahead of it, for a short frame or, once one was long, for the longest, and behind them
// lies memory of our own: what a frame has too much is copied from there to further buffers.
// Buffers that were not needed are kept for the next frame. Not thread-safe.
class NetReceiver {
 public:
  // Of the longest frame: the headers of virtio and Ethernet, two VLAN tags, and an IPv6 packet,
  // whose length does not count its own header.
  static constexpr std::size_t kMaxFrame = 12 + 14 + 2 * 4 + 40 + 65535;

  struct Counters {
    std::uint64_t packets = 0;
    std::uint64_t bytes = 0;    // without virtio's header
    std::uint64_t dropped = 0;  // too long for the driver's buffers, or discarded
  };

  enum class Outcome {
    kEmpty,      // no frame is waiting
    kMore,       // the bound of one batch was reached
    kNoBuffers,  // frames wait for the driver to add buffers
    kLost,       // the port does not work any more
  };

  explicit NetReceiver(const PacketPort& port);

  // Receives a batch of frames and pushes their buffers, without publishing them. With `mergeable`
  // (VIRTIO_NET_F_MRG_RXBUF) a frame may spread over several buffers. Error where the driver has
  // broken the protocol.
  [[nodiscard]] Result<Outcome> receive(Queue& queue, bool mergeable);

  // Puts the buffers taken ahead back into the queue. A frame that waits for more of them is
  // dropped, as on a network.
  void put_back(Queue& queue);
  // Drops up to `most` frames that wait in the port.
  void discard_waiting(unsigned most);

  [[nodiscard]] const Counters& counters() const { return counters_; }

 private:
  // As many as a queue has at most, a power of two.
  static constexpr std::size_t kMaxHeld = 256;

  [[nodiscard]] Chain& held(std::size_t index) { return held_[(first_ + index) % kMaxHeld]; }
  // Takes buffers until there is room for `bytes`, or all there are.
  [[nodiscard]] Result<> gather(Queue& queue, std::size_t bytes);
  // Reads one frame into the first of the held buffers and, where they end, the spill.
  [[nodiscard]] ssize_t read_frame(std::size_t wanted);
  // Gives the frame that was read to the driver; false where it must wait for more buffers.
  [[nodiscard]] Result<bool> deliver(Queue& queue, bool mergeable);
  void push_frame(Queue& queue);
  void set_buffer_count(std::uint16_t count);
  void copy_to_held(std::size_t offset, std::span<const std::byte> data);
  void drop_frame(const Queue& queue);

  const PacketPort& port_;

  // Buffers taken ahead, as a ring: the first one is the oldest.
  std::vector<Chain> held_;
  std::size_t first_ = 0;
  std::size_t held_count_ = 0;
  std::size_t held_bytes_ = 0;
  std::size_t held_segments_ = 0;

  // How much room the next frame is given, and how many frames in a row have needed less.
  std::size_t target_;
  unsigned short_frames_ = 0;

  // The frame that was read and is not yet delivered: its length, and how much of it is in the held
  // buffers. The rest is in spill_.
  std::size_t frame_bytes_ = 0;
  std::size_t frame_in_place_ = 0;
  std::vector<std::byte> spill_;
  std::vector<iovec> parts_;
  Counters counters_;
};

}  // namespace vmm::virtio
