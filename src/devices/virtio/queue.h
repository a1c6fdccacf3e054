#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"
#include "devices/virtio/ring.h"
#include "memory/guest_memory.h"

namespace vmm::virtio {

// What a device offers for one of its queues.
struct QueueLimits {
  std::uint16_t max_size;         // descriptors, a power of two
  std::uint64_t max_chain_bytes;  // of one request, readable and writable parts together
};

// What the driver says about a queue before DRIVER_OK: sizes and guest-physical addresses (virtio
// 1.2, 2.7). None of it is trusted.
struct QueueConfig {
  std::uint16_t size = 0;
  bool ready = false;
  std::uint64_t descriptors = 0;
  std::uint64_t available = 0;
  std::uint64_t used = 0;
  [[nodiscard]] bool operator==(const QueueConfig&) const = default;
};

// How far a queue has got, each index modulo 2^16.
struct QueueProgress {
  std::uint16_t next_available = 0;  // of the next request to take
  std::uint16_t next_used = 0;       // of the next request to give back
  std::uint16_t published = 0;       // next_used as the driver can see it
  [[nodiscard]] bool operator==(const QueueProgress&) const = default;
};

// A request: a chain of descriptors, resolved to memory of this process. Reuse one for many
// requests, so that its memory is, too.
class Chain {
 public:
  // Parts that the device reads, then parts that it writes; empty ones are left out. The guest may
  // change what they contain at any time.
  [[nodiscard]] std::span<const iovec> readable() const {
    return std::span(segments_).first(readable_count_);
  }
  [[nodiscard]] std::span<const iovec> writable() const {
    return std::span(segments_).subspan(readable_count_);
  }
  [[nodiscard]] std::uint64_t readable_bytes() const { return readable_bytes_; }
  [[nodiscard]] std::uint64_t writable_bytes() const { return writable_bytes_; }

 private:
  friend class Queue;

  std::uint16_t head_ = 0;
  std::size_t readable_count_ = 0;
  std::uint64_t readable_bytes_ = 0;
  std::uint64_t writable_bytes_ = 0;
  std::vector<iovec> segments_;
};

// The device's side of a split virtqueue (virtio 1.2, 2.7), with indirect descriptors and event
// index. Everything the driver has written is checked when it is used and read only once; an error
// means that the device needs a reset. Not thread-safe.
class Queue {
 public:
  // Takes over a ready queue. Error where its size is no power of two up to the limit, its parts
  // are misaligned or not in RAM, or no queue can have got to `progress`. memory must outlive the
  // queue.
  [[nodiscard]] static Result<Queue> create(GuestMemory& memory, const QueueConfig& config,
                                            const QueueLimits& limits, bool event_index,
                                            const QueueProgress& progress = {});

  // Takes the next request; false where there is none. No more than size() are taken before some
  // are published. Error where the driver has broken the protocol, now and at the next call: an
  // index or address out of range, more requests than fit, a chain that is too long, or loops.
  [[nodiscard]] Result<bool> pop(Chain& chain);
  // Takes the last `count` requests back that pop() has returned, none of which was pushed: they
  // come again with the next pop().
  void undo_pop(std::uint16_t count = 1) {
    progress_.next_available = static_cast<std::uint16_t>(progress_.next_available - count);
  }

  // Gives a request back after `written` bytes of its writable part were filled from the start,
  // and marks the pages of those as written by the VMM. The driver sees it after publish().
  void push(const Chain& chain, std::uint32_t written);
  // Marks the pages of the first `bytes` of a request's writable part as written by the VMM, where
  // it is not given back, or not with all of them.
  void mark_written(const Chain& chain, std::uint64_t bytes) const;
  // Shows the driver what was pushed. True where it wants an interrupt for it.
  [[nodiscard]] bool publish();

  // Asks the driver not to kick, or to kick at the next request. enable_kicks() returns true where
  // requests have come in already, for which no kick may come.
  void disable_kicks();
  [[nodiscard]] bool enable_kicks();

  [[nodiscard]] std::uint16_t size() const { return config_.size; }
  [[nodiscard]] const QueueProgress& progress() const { return progress_; }

 private:
  Queue(GuestMemory& memory, const QueueConfig& config, const QueueLimits& limits,
        bool event_index);

  [[nodiscard]] Result<> resolve(std::uint16_t head, Chain& chain) const;
  [[nodiscard]] Result<> add_segment(const vring_desc& descriptor, Chain& chain) const;
  void mark_dirty(const void* start, std::uint64_t bytes) const;

  GuestMemory* memory_;
  QueueConfig config_;
  std::uint64_t max_chain_bytes_;
  bool event_index_;
  QueueProgress progress_;
  std::uint16_t available_seen_ = 0;  // the driver's index as last read

  std::span<std::byte> table_;
  std::span<std::byte> available_;
  std::span<std::byte> used_;
};

// Saved form of a queue: config, then progress.
void save_queue(ByteWriter& writer, const QueueConfig& config, const QueueProgress& progress);
struct SavedQueue {
  QueueConfig config;
  QueueProgress progress;
};
[[nodiscard]] Result<SavedQueue> restore_queue(ByteReader& reader);

}  // namespace vmm::virtio
