#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "device_fakes.h"
#include "devices/virtio/mmio_transport.h"
#include "devices/virtio/ring.h"
#include "fake_loop.h"

// A virtio device with a driver that a test plays: guest memory, registers, queues, and an event
// loop that runs when the test says so.
namespace vmm::virtio {

inline constexpr std::uint64_t kRigRam = 0x4000'0000;
inline constexpr std::uint64_t kRigRamSize = 8 << 20;
// The upper half of RAM is free for a test's buffers; rings are in the lower one.
inline constexpr std::uint64_t kRigBuffers = kRigRam + kRigRamSize / 2;

// A part of a request as the driver describes it.
struct Segment {
  std::uint64_t address;
  std::uint32_t size;
  bool writable = false;
};

// A device behind its transport, and the driver's view of it.
class VirtioRig {
 public:
  static constexpr std::uint16_t kQueueSize = 16;

  VirtioRig() : memory(GuestMemory::create(kRigRam, kRigRamSize, Backing::kAnonymous).value()) {}

  // Puts the device behind a transport that runs.
  void attach(std::unique_ptr<VirtioDevice> device) {
    transport = MmioTransport::create(std::move(device), memory, edge, loop).value();
    transport->resume();
  }

  std::uint32_t read(std::uint64_t offset) {
    return static_cast<std::uint32_t>(mmio_read(*transport, offset));
  }
  void write(std::uint64_t offset, std::uint64_t value) { mmio_write(*transport, offset, value); }
  std::uint32_t status() { return read(VIRTIO_MMIO_STATUS); }
  std::uint64_t offered() {
    write(VIRTIO_MMIO_DEVICE_FEATURES_SEL, 1);
    const std::uint64_t high = read(VIRTIO_MMIO_DEVICE_FEATURES);
    write(VIRTIO_MMIO_DEVICE_FEATURES_SEL, 0);
    return high << 32 | read(VIRTIO_MMIO_DEVICE_FEATURES);
  }
  void write_features(std::uint64_t features) {
    write(VIRTIO_MMIO_DRIVER_FEATURES_SEL, 0);
    write(VIRTIO_MMIO_DRIVER_FEATURES, features & 0xffff'ffff);
    write(VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
    write(VIRTIO_MMIO_DRIVER_FEATURES, features >> 32);
  }

  // Guest-physical addresses of a queue's parts.
  static std::uint64_t table(unsigned queue) { return kRigRam + queue * 0x4000ULL; }
  static std::uint64_t available(unsigned queue) { return table(queue) + 0x1000; }
  static std::uint64_t used(unsigned queue) { return table(queue) + 0x2000; }
  static std::uint64_t indirect(unsigned queue, unsigned slot) {
    return kRigRam + 0x20'0000 + queue * 0x1'0000ULL + slot * 0x1000ULL;
  }

  void set_queue(unsigned queue, std::uint16_t size = kQueueSize) {
    // A driver that starts again begins with empty rings.
    std::ranges::fill(memory.slice(table(queue), table(1) - table(0)).value(), std::byte{0});
    write(VIRTIO_MMIO_QUEUE_SEL, queue);
    write(VIRTIO_MMIO_QUEUE_NUM, size);
    write(VIRTIO_MMIO_QUEUE_DESC_LOW, table(queue));
    write(VIRTIO_MMIO_QUEUE_DESC_HIGH, 0);
    write(VIRTIO_MMIO_QUEUE_AVAIL_LOW, available(queue));
    write(VIRTIO_MMIO_QUEUE_AVAIL_HIGH, 0);
    write(VIRTIO_MMIO_QUEUE_USED_LOW, used(queue));
    write(VIRTIO_MMIO_QUEUE_USED_HIGH, 0);
    write(VIRTIO_MMIO_QUEUE_READY, 1);
  }

  // The steps of a driver's start (virtio 1.2, 3.1.1) with these features beside VERSION_1, or all
  // that are offered but the event index; every queue is set up.
  void start(std::optional<std::uint64_t> features = {}) {
    write(VIRTIO_MMIO_STATUS, VIRTIO_CONFIG_S_ACKNOWLEDGE);
    write(VIRTIO_MMIO_STATUS, status() | VIRTIO_CONFIG_S_DRIVER);
    const std::uint64_t all = offered() & ~(std::uint64_t{1} << VIRTIO_RING_F_EVENT_IDX);
    write_features(features.value_or(all) | std::uint64_t{1} << VIRTIO_F_VERSION_1);
    write(VIRTIO_MMIO_STATUS, status() | VIRTIO_CONFIG_S_FEATURES_OK);
    ASSERT_NE(status() & VIRTIO_CONFIG_S_FEATURES_OK, 0U);
    queues_.assign(transport->queue_count(), {});
    for (unsigned queue = 0; queue < queues_.size(); ++queue) set_queue(queue);
    write(VIRTIO_MMIO_STATUS, status() | VIRTIO_CONFIG_S_DRIVER_OK);
    ASSERT_EQ(status() & VIRTIO_CONFIG_S_NEEDS_RESET, 0U);
    ASSERT_TRUE(loop.settle());
  }

  // Makes a request available and returns its head; kick() tells the device.
  std::uint16_t add(unsigned queue, const std::vector<Segment>& segments,
                    bool use_indirect = false) {
    DriverQueue& driver = queues_[queue];
    const std::uint16_t head = driver.next_descriptor;
    const std::uint64_t place = use_indirect ? indirect(queue, head % kQueueSize) : table(queue);
    for (std::size_t i = 0; i < segments.size(); ++i) {
      const auto index =
          static_cast<std::uint16_t>(use_indirect ? i : (driver.next_descriptor + i) % kQueueSize);
      const auto next = static_cast<std::uint16_t>(use_indirect ? i + 1 : (index + 1) % kQueueSize);
      std::uint16_t flags = segments[i].writable ? VRING_DESC_F_WRITE : 0;
      if (i + 1 < segments.size()) flags |= VRING_DESC_F_NEXT;
      put_descriptor(place + index * 16ULL, {segments[i].address, segments[i].size, flags, next});
    }
    if (use_indirect) {
      const auto bytes = static_cast<std::uint32_t>(segments.size() * 16);
      put_descriptor(table(queue) + head * 16ULL, {place, bytes, VRING_DESC_F_INDIRECT, 0});
    }
    const std::size_t taken = use_indirect ? 1 : segments.size();
    driver.next_descriptor = static_cast<std::uint16_t>((head + taken) % kQueueSize);
    offer(queue, head);
    return head;
  }
  void put_descriptor(std::uint64_t address, const vring_desc& descriptor) {
    poke(address, descriptor);
  }
  // Puts a head into the available ring.
  void offer(unsigned queue, std::uint16_t head) {
    DriverQueue& driver = queues_[queue];
    poke(available(queue) + 4 + driver.available % kQueueSize * 2ULL, head);
    poke(available(queue) + 2, ++driver.available);
  }
  void kick(unsigned queue) { write(VIRTIO_MMIO_QUEUE_NOTIFY, queue); }
  // Makes a request available, kicks and lets the device work.
  std::uint16_t submit(unsigned queue, const std::vector<Segment>& segments) {
    const auto head = add(queue, segments);
    kick(queue);
    EXPECT_TRUE(loop.settle());
    return head;
  }
  // The next request that has come back, if there is one.
  std::optional<vring_used_elem> take_used(unsigned queue) {
    DriverQueue& driver = queues_[queue];
    if (peek<std::uint16_t>(used(queue) + 2) == driver.used) return std::nullopt;
    return peek<vring_used_elem>(used(queue) + 4 + driver.used++ % kQueueSize * 8ULL);
  }
  // Waits, turning the loop, for a request to come back.
  std::optional<vring_used_elem> wait_used(unsigned queue) {
    for (int turns = 0; turns < 1000; ++turns) {
      if (auto element = take_used(queue)) return element;
      loop.turn(std::chrono::milliseconds(10));
    }
    return std::nullopt;
  }

  template <typename T>
  void poke(std::uint64_t address, const T& value) {
    const auto bytes = memory.slice(address, sizeof value).value();
    std::memcpy(bytes.data(), &value, sizeof value);
  }
  template <typename T>
  [[nodiscard]] T peek(std::uint64_t address) const {
    T value{};
    std::memcpy(&value, memory.slice(address, sizeof value).value().data(), sizeof value);
    return value;
  }
  void poke_text(std::uint64_t address, std::string_view text) {
    const auto bytes = memory.slice(address, text.size()).value();
    std::memcpy(bytes.data(), text.data(), text.size());
  }
  [[nodiscard]] std::string peek_text(std::uint64_t address, std::size_t size) const {
    const auto bytes = memory.slice(address, size).value();
    return {reinterpret_cast<const char*>(bytes.data()), size};
  }
  [[nodiscard]] bool is_dirty(std::uint64_t address) {
    return memory.device_dirty().test((address - kRigRam) / kPageSize);
  }
  [[nodiscard]] bool needs_reset() { return (status() & VIRTIO_CONFIG_S_NEEDS_RESET) != 0; }

  GuestMemory memory;
  FakeEdge edge;
  FakeLoop loop;
  std::unique_ptr<MmioTransport> transport;

 private:
  struct DriverQueue {
    std::uint16_t next_descriptor = 0;
    std::uint16_t available = 0;
    std::uint16_t used = 0;
  };
  std::vector<DriverQueue> queues_;
};

}  // namespace vmm::virtio
