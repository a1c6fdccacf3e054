#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include "devices/virtio/queue.h"
#include "devices/virtio/ring.h"
#include "memory/guest_memory.h"

namespace vmm::virtio {

// One queue, whose rings a test writes byte by byte as a driver would, or as no driver should.
class RingFixture : public ::testing::Test {
 protected:
  static constexpr std::uint64_t kRam = 0x4000'0000;
  static constexpr std::uint64_t kRamSize = 0x2'0000;
  static constexpr std::uint64_t kRamEnd = kRam + kRamSize;
  static constexpr std::uint16_t kSize = 8;
  static constexpr std::uint64_t kTable = kRam;
  static constexpr std::uint64_t kAvailable = kRam + 0x1000;
  static constexpr std::uint64_t kUsed = kRam + 0x2000;
  static constexpr std::uint64_t kIndirect = kRam + 0x4000;
  static constexpr std::uint64_t kBuffers = kRam + 0x1'0000;
  static constexpr std::uint64_t kMaxBytes = 0x4000;
  static constexpr QueueLimits kLimits{.max_size = 16, .max_chain_bytes = kMaxBytes};
  static constexpr QueueConfig kConfig{
      .size = kSize, .ready = true, .descriptors = kTable, .available = kAvailable, .used = kUsed};

  RingFixture() : memory(GuestMemory::create(kRam, kRamSize, Backing::kAnonymous).value()) {}

  Queue make(bool event_index = false, const QueueProgress& progress = {}) {
    driver_index = progress.next_available;
    return Queue::create(memory, kConfig, kLimits, event_index, progress).value();
  }

  template <typename T>
  void poke(std::uint64_t address, T value) {
    std::memcpy(memory.slice(address, sizeof value).value().data(), &value, sizeof value);
  }
  template <typename T>
  [[nodiscard]] T peek(std::uint64_t address) const {
    T value{};
    std::memcpy(&value, memory.slice(address, sizeof value).value().data(), sizeof value);
    return value;
  }

  void describe(std::uint64_t table, unsigned index, const vring_desc& descriptor) {
    poke(table + index * sizeof(vring_desc), descriptor);
  }
  // Puts a head into the available ring; offer_index() shows it.
  void offer(std::uint16_t head) {
    poke(kAvailable + 4 + driver_index % kSize * 2ULL, head);
    offer_index(static_cast<std::uint16_t>(driver_index + 1));
  }
  void offer_index(std::uint16_t index) {
    driver_index = index;
    poke(kAvailable + 2, index);
  }
  // A request of one writable buffer at descriptor `head`.
  void offer_buffer(std::uint16_t head, std::uint32_t bytes = 0x10) {
    describe(kTable, head, {kBuffers + head * 0x100ULL, bytes, VRING_DESC_F_WRITE, 0});
    offer(head);
  }

  // Where the driver wants to be told, with the event index, and where the device does.
  void want_interrupt_at(std::uint16_t index) { poke(kAvailable + 4 + kSize * 2ULL, index); }
  [[nodiscard]] std::uint16_t kick_wanted_at() const {
    return peek<std::uint16_t>(kUsed + 4 + kSize * 8ULL);
  }
  [[nodiscard]] std::uint16_t used_index() const { return peek<std::uint16_t>(kUsed + 2); }
  [[nodiscard]] vring_used_elem used_element(unsigned index) const {
    return peek<vring_used_elem>(kUsed + 4 + index % kSize * 8ULL);
  }
  [[nodiscard]] bool is_dirty(std::uint64_t address) {
    return memory.device_dirty().test((address - kRam) / kPageSize);
  }
  [[nodiscard]] const void* host(std::uint64_t address) const {
    return memory.slice(address, 0).value().data();
  }

  // True where a request is taken.
  static bool pops(Queue& queue, Chain& chain) {
    const auto popped = queue.pop(chain);
    EXPECT_TRUE(popped.has_value()) << popped.error().message();
    return popped && popped.value();
  }
  // pop() reports a broken protocol with this in the message, however often it is asked.
  static void expect_refused(Queue& queue, std::string_view what) {
    Chain chain;
    const auto before = queue.progress();
    for (int attempt = 0; attempt < 2; ++attempt) {
      const auto popped = queue.pop(chain);
      ASSERT_FALSE(popped.has_value()) << what;
      EXPECT_THAT(popped.error().message(), ::testing::HasSubstr(std::string(what)));
    }
    EXPECT_EQ(queue.progress(), before);
  }

  GuestMemory memory;
  std::uint16_t driver_index = 0;
};

}  // namespace vmm::virtio
