#include "devices/virtio/queue.h"

#include <atomic>
#include <cstring>
#include <utility>

#include "base/checked.h"

namespace vmm::virtio {
namespace {

// Layout of the rings (virtio 1.2, 2.7.6 and 2.7.8): flags, index, then the entries and behind them
// the index at which the other side wants to be told.
constexpr std::size_t kIndexOffset = 2;
constexpr std::size_t kRingOffset = 4;
constexpr std::size_t kAvailableEntry = sizeof(std::uint16_t);
constexpr std::size_t kUsedEntry = sizeof(vring_used_elem);
constexpr std::uint64_t kTableAlignment = 16;
constexpr std::uint64_t kAvailableAlignment = 2;
constexpr std::uint64_t kUsedAlignment = 4;

// A field of a ring that both sides use at once.
std::atomic_ref<std::uint16_t> field(std::span<std::byte> ring, std::size_t offset) {
  return std::atomic_ref(*reinterpret_cast<std::uint16_t*>(ring.data() + offset));
}

// From one index to a later one.
constexpr std::uint16_t distance(std::uint16_t from, std::uint16_t to) {
  return static_cast<std::uint16_t>(to - from);
}

vring_desc descriptor_at(std::span<const std::byte> table, std::size_t index) {
  vring_desc descriptor{};
  std::memcpy(&descriptor, table.data() + index * sizeof descriptor, sizeof descriptor);
  return descriptor;
}

Result<std::span<std::byte>> ring_memory(const GuestMemory& memory, std::uint64_t address,
                                         std::uint64_t size, std::uint64_t alignment,
                                         const char* what) {
  if (address % alignment != 0) {
    return fail(ErrorKind::kFailed, "the {} at {:#x} is not aligned to {} bytes", what, address,
                alignment);
  }
  return with_context(memory.slice(address, size), what);
}

}  // namespace

Queue::Queue(GuestMemory& memory, const QueueConfig& config, const QueueLimits& limits,
             bool event_index)
    : memory_(&memory),
      config_(config),
      max_chain_bytes_(limits.max_chain_bytes),
      event_index_(event_index) {}

Result<Queue> Queue::create(GuestMemory& memory, const QueueConfig& config,
                            const QueueLimits& limits, bool event_index,
                            const QueueProgress& progress) {
  const std::uint64_t size = config.size;
  if (!is_power_of_two(size) || size > limits.max_size) {
    return fail(ErrorKind::kFailed, "a queue of {} descriptors, where powers of two up to {} fit",
                size, limits.max_size);
  }
  constexpr std::uint64_t kEvent = sizeof(std::uint16_t);
  Queue queue(memory, config, limits, event_index);
  TRY(queue.table_, ring_memory(memory, config.descriptors, size * sizeof(vring_desc),
                                kTableAlignment, "descriptor table"));
  TRY(queue.available_,
      ring_memory(memory, config.available, kRingOffset + size * kAvailableEntry + kEvent,
                  kAvailableAlignment, "available ring"));
  TRY(queue.used_, ring_memory(memory, config.used, kRingOffset + size * kUsedEntry + kEvent,
                               kUsedAlignment, "used ring"));
  const auto in_flight = distance(progress.published, progress.next_available);
  if (in_flight > size || distance(progress.published, progress.next_used) > in_flight) {
    return fail(ErrorKind::kFailed, "{} requests taken, {} given back, {} shown in a queue of {}",
                progress.next_available, progress.next_used, progress.published, size);
  }
  queue.progress_ = progress;
  queue.available_seen_ = progress.next_available;
  return queue;
}

Result<bool> Queue::pop(Chain& chain) {
  if (available_seen_ == progress_.next_available) {
    const auto available = field(available_, kIndexOffset).load(std::memory_order_acquire);
    if (available == progress_.next_available) return false;
    // A driver has no descriptors for more than the queue holds until it sees some come back. (So
    // no pass goes on for ever, either, where requests are published only at its end.)
    const auto waiting = distance(progress_.next_available, available);
    const auto in_flight = distance(progress_.published, progress_.next_available);
    if (waiting > config_.size - in_flight) {
      return fail(ErrorKind::kFailed, "{} requests beside {} in flight in a queue of {}", waiting,
                  in_flight, config_.size);
    }
    available_seen_ = available;
  }
  const std::size_t slot = progress_.next_available % config_.size;
  const auto head =
      field(available_, kRingOffset + slot * kAvailableEntry).load(std::memory_order_relaxed);
  TRY(resolve(head, chain));
  ++progress_.next_available;
  return true;
}

Result<> Queue::resolve(std::uint16_t head, Chain& chain) const {
  chain.head_ = head;
  chain.readable_count_ = 0;
  chain.readable_bytes_ = 0;
  chain.writable_bytes_ = 0;
  chain.segments_.clear();

  std::span<const std::byte> table = table_;
  std::size_t index = head;
  bool indirect = false;
  // No chain is longer than the queue, in whichever tables (virtio 1.2, 2.7.5.3.1): this ends
  // loops.
  for (std::size_t left = config_.size; left != 0;) {
    const std::size_t entries = table.size() / sizeof(vring_desc);
    if (index >= entries) {
      return fail(ErrorKind::kFailed, "descriptor {} in a table of {}", index, entries);
    }
    const vring_desc descriptor = descriptor_at(table, index);
    if ((descriptor.flags & VRING_DESC_F_INDIRECT) == 0) {
      TRY(add_segment(descriptor, chain));
      if ((descriptor.flags & VRING_DESC_F_NEXT) == 0) return success();
      index = descriptor.next;
      --left;
      continue;
    }
    // The last descriptor may refer to a table with the rest of the chain (virtio 1.2, 2.7.5.3).
    if (indirect || (descriptor.flags & VRING_DESC_F_NEXT) != 0 || descriptor.len == 0 ||
        descriptor.len % sizeof(vring_desc) != 0 ||
        descriptor.len / sizeof(vring_desc) > config_.size) {
      return fail(ErrorKind::kFailed, "an indirect table of {} bytes, flags {:#x}", descriptor.len,
                  descriptor.flags);
    }
    TRY(table, memory_->slice(descriptor.addr, descriptor.len));
    indirect = true;
    index = 0;
  }
  return fail(ErrorKind::kFailed, "a chain of more than {} descriptors", config_.size);
}

Result<> Queue::add_segment(const vring_desc& descriptor, Chain& chain) const {
  const bool writable = (descriptor.flags & VRING_DESC_F_WRITE) != 0;
  if (!writable && chain.writable_bytes_ != 0) {
    return fail(ErrorKind::kFailed, "a readable descriptor behind a writable one");
  }
  if (descriptor.len == 0) return success();
  const auto total = chain.readable_bytes_ + chain.writable_bytes_ + descriptor.len;
  if (total > max_chain_bytes_) {
    return fail(ErrorKind::kFailed, "a request of more than {} bytes", max_chain_bytes_);
  }
  TRY(const auto bytes, memory_->slice(descriptor.addr, descriptor.len));
  chain.segments_.push_back({bytes.data(), bytes.size()});
  if (writable) {
    chain.writable_bytes_ += descriptor.len;
  } else {
    chain.readable_bytes_ += descriptor.len;
    chain.readable_count_ = chain.segments_.size();
  }
  return success();
}

void Queue::push(const Chain& chain, std::uint32_t written) {
  mark_written(chain, written);
  const vring_used_elem element{.id = chain.head_, .len = written};
  const std::size_t slot = progress_.next_used % config_.size;
  std::memcpy(used_.data() + kRingOffset + slot * kUsedEntry, &element, sizeof element);
  mark_dirty(used_.data() + kRingOffset + slot * kUsedEntry, sizeof element);
  ++progress_.next_used;
}

bool Queue::publish() {
  const std::uint16_t from = progress_.published;
  const std::uint16_t to = progress_.next_used;
  if (from == to) return false;
  field(used_, kIndexOffset).store(to, std::memory_order_release);
  mark_dirty(used_.data() + kIndexOffset, sizeof to);
  progress_.published = to;
  // What the driver wants is read after it can see the index: it writes its wish and then looks at
  // the index, so that one of the two sides notices the other.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  if (!event_index_) {
    const auto flags = field(available_, 0).load(std::memory_order_relaxed);
    return (flags & VRING_AVAIL_F_NO_INTERRUPT) == 0;
  }
  const std::size_t event_offset = kRingOffset + config_.size * kAvailableEntry;
  const auto wanted_at = field(available_, event_offset).load(std::memory_order_relaxed);
  return vring_need_event(wanted_at, to, from) != 0;
}

void Queue::disable_kicks() {
  // With the event index, a driver that is ahead of it does not kick.
  if (event_index_) return;
  field(used_, 0).store(VRING_USED_F_NO_NOTIFY, std::memory_order_relaxed);
  mark_dirty(used_.data(), sizeof(std::uint16_t));
}

bool Queue::enable_kicks() {
  const std::size_t offset = event_index_ ? kRingOffset + config_.size * kUsedEntry : 0;
  const std::uint16_t value = event_index_ ? progress_.next_available : 0;
  field(used_, offset).store(value, std::memory_order_relaxed);
  mark_dirty(used_.data() + offset, sizeof value);
  std::atomic_thread_fence(std::memory_order_seq_cst);
  const auto available = field(available_, kIndexOffset).load(std::memory_order_relaxed);
  return available != progress_.next_available;
}

void Queue::mark_written(const Chain& chain, std::uint64_t bytes) const {
  for (const iovec& segment : chain.writable()) {
    if (bytes == 0) return;
    const std::uint64_t part = bytes < segment.iov_len ? bytes : segment.iov_len;
    mark_dirty(segment.iov_base, part);
    bytes -= part;
  }
}

void Queue::mark_dirty(const void* start, std::uint64_t bytes) const {
  const auto* first = static_cast<const std::byte*>(start);
  memory_->mark_dirty(std::span(first, bytes));
}

void save_queue(ByteWriter& writer, const QueueConfig& config, const QueueProgress& progress) {
  writer.put(config.size);
  writer.put_bool(config.ready);
  writer.put(config.descriptors);
  writer.put(config.available);
  writer.put(config.used);
  writer.put(progress.next_available);
  writer.put(progress.next_used);
  writer.put(progress.published);
}

Result<SavedQueue> restore_queue(ByteReader& reader) {
  SavedQueue saved;
  TRY(saved.config.size, reader.get<std::uint16_t>());
  TRY(saved.config.ready, reader.get_bool());
  TRY(saved.config.descriptors, reader.get<std::uint64_t>());
  TRY(saved.config.available, reader.get<std::uint64_t>());
  TRY(saved.config.used, reader.get<std::uint64_t>());
  TRY(saved.progress.next_available, reader.get<std::uint16_t>());
  TRY(saved.progress.next_used, reader.get<std::uint16_t>());
  TRY(saved.progress.published, reader.get<std::uint16_t>());
  return saved;
}

}  // namespace vmm::virtio
