#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "devices/virtio/mmio_transport.h"
#include "fake_loop.h"
#include "fuzz.h"
#include "memory/guest_memory.h"

namespace vmm::fuzz {

// Drives a virtio device from an input: a guest at its registers, rings and buffers, the turns of
// the event loop, time, and the machine that stops, saves, moves and resets it. What must hold for
// every device is checked on the way:
//  - it comes to rest once the guest does;
//  - every page that it changes is marked as written by the VMM;
//  - what it saves it takes over again, and then saves the same; what it refuses changes nothing.
class DeviceFuzzer {
 public:
  // How a device is made, on the fuzzer's memory and loop, and something that its surroundings may
  // do at any time (a frame arrives, a console is attached).
  using Make = std::function<std::unique_ptr<virtio::VirtioDevice>(GuestMemory&, EventLoop&)>;
  using Event = std::function<void(virtio::VirtioDevice&, Input&)>;

  // Guest memory: a page of rings per queue, tables of indirect descriptors, then buffers.
  static constexpr std::uint64_t kRam = 0x4000'0000;
  static constexpr std::uint64_t kRamSize = 0x2'0000;
  static constexpr std::uint64_t kQueueArea = 0x1000;
  static constexpr std::uint64_t kAvailable = 0x400;  // in the page of a queue
  static constexpr std::uint64_t kUsed = 0x800;
  static constexpr std::uint64_t kIndirect = 0x8000;  // from the start of RAM, as the next
  static constexpr std::uint64_t kBuffers = 0x1'0000;

  DeviceFuzzer(Make make, Event event = {});

  // Begins with a state from a peer; false where it is refused.
  [[nodiscard]] bool restore(std::span<const std::byte> state);
  // Does what the input says, until it ends.
  void run(Input& input);

 private:
  struct DriverQueue {
    std::uint16_t size = 0;
    std::uint16_t next_descriptor = 0;
    std::uint16_t available = 0;
  };

  [[nodiscard]] std::unique_ptr<virtio::MmioTransport> attach();
  void step(Input& input);
  void write(std::uint64_t offset, std::uint32_t value);
  [[nodiscard]] std::uint32_t read(std::uint64_t offset);
  void poke(std::uint64_t offset, std::span<const std::byte> bytes);
  template <typename T>
  void poke_value(std::uint64_t offset, const T& value) {
    poke(offset, std::as_bytes(std::span(&value, 1)));
  }
  void write_register(Input& input);
  void access_anything(Input& input);
  void start_driver(Input& input);
  void add_request(Input& input);
  void stop_and_move(Input& input);
  [[nodiscard]] Result<> take_over(std::span<const std::byte> state);
  void turn();
  void check_dirty();

  const Make make_;
  const Event event_;
  virtio::FakeEdge edge_;
  virtio::FakeLoop loop_;
  std::unique_ptr<virtio::MmioTransport> transport_;
  std::vector<DriverQueue> queues_;
};

}  // namespace vmm::fuzz
