#include "devices/virtio/console.h"

#include <linux/virtio_console.h>
#include <linux/virtio_ids.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "devices/device_state.h"
#include "devices/virtio/config_space.h"

namespace vmm::virtio {
namespace {

constexpr std::uint32_t kStateVersion = 1;

constexpr unsigned kReceiveQueue = 0;
constexpr unsigned kTransmitQueue = 1;

// Linux puts up a page for each descriptor to receive into, and sends at most 64 KiB at a time.
constexpr std::uint16_t kReceiveQueueSize = 64;
constexpr std::uint16_t kTransmitQueueSize = 128;
constexpr std::uint64_t kMaxRequest = 1 << 20;
constexpr std::array<QueueLimits, 2> kQueues{
    {{kReceiveQueueSize, kMaxRequest}, {kTransmitQueueSize, kMaxRequest}}};

// What one pass sends before others get their turn: the sink hands it on in between.
constexpr std::uint64_t kPassBytes = 64 * 1024;
constexpr unsigned kPassRequests = 64;

}  // namespace

Console::Console(SerialSink& sink) : sink_(sink) {}

void Console::set_on_rx_space(std::function<void()> on_rx_space) {
  on_rx_space_ = std::move(on_rx_space);
}

std::uint32_t Console::type() const {
  return VIRTIO_ID_CONSOLE;
}

std::uint64_t Console::offered_features() const {
  return std::uint64_t{1} << VIRTIO_CONSOLE_F_SIZE;
}

std::span<const QueueLimits> Console::queue_limits() const {
  return kQueues;
}

std::vector<Counter> Console::counters() const {
  const MutexLock lock(mutex_);
  return {{"input_bytes", input_bytes_}, {"output_bytes", output_bytes_}};
}

// --- Input ---

std::size_t Console::receive(std::span<const std::byte> bytes) {
  const MutexLock lock(mutex_);
  Queue* queue = active() ? this->queue(kReceiveQueue) : nullptr;
  const std::size_t taken = queue != nullptr ? fill(*queue, bytes) : 0;
  input_refused_ = taken < bytes.size();
  input_bytes_ += taken;
  return taken;
}

std::size_t Console::fill(Queue& queue, std::span<const std::byte> bytes) {
  std::size_t taken = 0;
  unsigned requests = 0;
  while (taken < bytes.size()) {
    if (requests == queue.size()) {
      transport().process_again(kReceiveQueue);
      break;
    }
    auto popped = queue.pop(chain_);
    if (!popped) {
      // What is in its buffers already is the driver's.
      publish(queue);
      transport().needs_reset(popped.error());
      return taken;
    }
    if (!popped.value()) {
      if (queue.enable_kicks()) continue;
      break;
    }
    ++requests;
    std::uint32_t written = 0;
    for (const iovec& segment : chain_.writable()) {
      const auto part = std::min(segment.iov_len, bytes.size() - taken);
      if (part == 0) break;
      std::memcpy(segment.iov_base, bytes.data() + taken, part);
      taken += part;
      written += static_cast<std::uint32_t>(part);
    }
    queue.push(chain_, written);
  }
  publish(queue);
  return taken;
}

void Console::offer_space(Queue& queue) {
  // Kicks are wanted again when receive() runs out of buffers.
  queue.disable_kicks();
  if (std::exchange(input_refused_, false) && on_rx_space_) on_rx_space_();
}

// --- Output ---

void Console::transmit(Queue& queue) {
  queue.disable_kicks();
  std::uint64_t bytes = 0;
  unsigned requests = 0;
  do {
    for (;;) {
      if (bytes >= kPassBytes || requests == kPassRequests) {
        publish(queue);
        transport().process_again(kTransmitQueue);
        return;
      }
      auto popped = queue.pop(chain_);
      if (!popped) {
        publish(queue);
        transport().needs_reset(popped.error());
        return;
      }
      if (!popped.value()) break;
      for (const iovec& segment : chain_.readable()) {
        sink_.write({static_cast<const std::byte*>(segment.iov_base), segment.iov_len});
      }
      queue.push(chain_, 0);
      ++requests;
      bytes += chain_.readable_bytes();
      output_bytes_ += chain_.readable_bytes();
    }
    // The driver may be spinning until its bytes are taken.
    publish(queue);
  } while (queue.enable_kicks());
}

void Console::process(unsigned index) {
  Queue& queue = *this->queue(index);
  if (index == kReceiveQueue) {
    offer_space(queue);
  } else {
    transmit(queue);
  }
}

// --- Size ---

void Console::set_size(std::uint16_t cols, std::uint16_t rows) {
  const MutexLock lock(mutex_);
  new_size_ = Size{cols, rows};
  if (!quiet_) apply_size();
}

void Console::apply_size() {
  const auto size = std::exchange(new_size_, std::nullopt);
  if (!size || *size == size_) return;
  size_ = *size;
  transport().notify_config();
}

void Console::read_config(std::uint64_t offset, std::span<std::byte> data) const {
  const virtio_console_config config{
      .cols = size_.cols, .rows = size_.rows, .max_nr_ports = 0, .emerg_wr = 0};
  copy_config(config, offset, data);
}

void Console::quiesce() {
  quiet_ = true;
}

void Console::resume() {
  quiet_ = false;
  apply_size();
}

// --- Saved state ---

void Console::save_state(ByteWriter& writer) const {
  writer.put(kStateVersion);
  writer.put(size_.cols);
  writer.put(size_.rows);
}

Result<> Console::restore_state(ByteReader& reader) {
  TRY(expect_state_version(reader, name(), kStateVersion));
  Size size;
  TRY(size.cols, reader.get<std::uint16_t>());
  TRY(size.rows, reader.get<std::uint16_t>());
  TRY(reader.expect_end());
  size_ = size;
  return success();
}

}  // namespace vmm::virtio
