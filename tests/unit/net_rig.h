#pragma once

#include <fcntl.h>
#include <linux/if_tun.h>
#include <sys/socket.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "devices/packet_port.h"
#include "devices/virtio/net.h"
#include "devices/virtio/net_header.h"
#include "virtio_rig.h"

// A network device whose port is a socket, with the network at its other end.
namespace vmm::virtio {

inline constexpr unsigned kAllOffloads =
    TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN | TUN_F_UFO;
inline constexpr std::size_t kHeaderBytes = 12;

class FakePort final : public PacketPort {
 public:
  FakePort() {
    int ends[2] = {-1, -1};
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends), 0);
    fd_ = Fd(ends[0]);
    network = Fd(ends[1]);
  }
  explicit FakePort(const std::string& path) : fd_(open_file(path, O_RDWR).value()) {}

  [[nodiscard]] std::string_view name() const override { return "fake0"; }
  [[nodiscard]] const Fd& fd() const override { return fd_; }
  [[nodiscard]] unsigned offload() const override { return offloads; }
  [[nodiscard]] Result<> set_offload(unsigned flags) override {
    offload_set = flags;
    return success();
  }
  [[nodiscard]] std::optional<std::uint16_t> unusual_mtu() const override { return mtu; }

  // A frame with its header from the network, or to it if one has come.
  void send(const std::string& frame) {
    EXPECT_EQ(::write(network.get(), frame.data(), frame.size()),
              static_cast<ssize_t>(frame.size()));
  }
  std::optional<std::string> receive() {
    std::string frame(100'000, '\0');
    const auto size = ::read(network.get(), frame.data(), frame.size());
    if (size <= 0) return std::nullopt;
    frame.resize(static_cast<std::size_t>(size));
    return frame;
  }

  Fd network;
  unsigned offloads = kAllOffloads;
  std::optional<std::uint16_t> mtu;
  unsigned offload_set = ~0U;

 private:
  Fd fd_;
};

// A frame with its header: `size` bytes that differ from place to place and seed to seed.
inline std::string make_frame(std::size_t size, unsigned seed = 1) {
  std::string frame(kHeaderBytes, '\0');
  for (std::size_t i = 0; i < size; ++i)
    frame += static_cast<char>((i * 7 + i / 251 + seed) & 0xff);
  return frame;
}

inline const MacAddress& test_mac() {
  static const MacAddress mac = MacAddress::parse("52:54:00:12:34:56").value();
  return mac;
}

class NetTest : public ::testing::Test {
 protected:
  static constexpr unsigned kRx = 0;
  static constexpr unsigned kTx = 1;
  static constexpr unsigned kControl = 2;

  void attach() { rig.attach(make_device()); }
  std::unique_ptr<Net> make_device() {
    auto device = std::make_unique<Net>("net.lan", port, test_mac(), rig.loop);
    net = device.get();
    return device;
  }
  // The transport of this guest goes away, and another takes its place with the state of the old.
  void move(const std::vector<std::byte>& state) {
    rig.transport.reset();
    rig.transport = MmioTransport::create(make_device(), rig.memory, rig.edge, rig.loop).value();
    ASSERT_TRUE(restored(*rig.transport, state));
    EXPECT_EQ(saved(*rig.transport), state);
  }

  // Adds receive buffers of one size, each at its own place.
  void add_buffers(unsigned count, std::uint32_t size) {
    for (unsigned i = 0; i < count; ++i) {
      const std::uint64_t place = kRigBuffers + next_buffer_++ % 64 * 0x8000ULL;
      places_[rig.add(kRx, {{place, size, true}})] = place;
    }
  }
  // The next frame that the driver has got, put together from its buffers, and their number.
  struct Received {
    std::string frame;
    unsigned buffers;
  };
  std::optional<Received> take_frame() {
    const auto first = rig.take_used(kRx);
    if (!first) return std::nullopt;
    Received received{rig.peek_text(place(first->id), first->len), 0};
    std::memcpy(&received.buffers, received.frame.data() + 10, 2);
    for (unsigned i = 1; i < received.buffers; ++i) {
      const auto more = rig.take_used(kRx);
      if (!more) return std::nullopt;
      received.frame += rig.peek_text(place(more->id), more->len);
    }
    std::memset(received.frame.data() + 10, 0, 2);
    return received;
  }
  std::uint64_t place(std::uint32_t head) const { return places_[head % VirtioRig::kQueueSize]; }

  // Makes a frame available to the device as one segment at a place of its own.
  std::uint16_t add_frame(const std::string& frame, unsigned slot = 0) {
    const std::uint64_t at = kRigBuffers + slot * 0x2'0000ULL;
    rig.poke_text(at, frame);
    return rig.add(kTx, {{at, static_cast<std::uint32_t>(frame.size())}});
  }
  std::uint64_t counter(std::string_view name) const {
    for (const Counter& counter : net->counters()) {
      if (counter.name == name) return counter.value;
    }
    ADD_FAILURE() << "no counter " << name;
    return 0;
  }
  std::uint16_t net_status() {
    return static_cast<std::uint16_t>(mmio_read(*rig.transport, VIRTIO_MMIO_CONFIG + 6, 2));
  }
  static constexpr std::uint64_t bit(unsigned feature) { return std::uint64_t{1} << feature; }

  FakePort port;
  VirtioRig rig;
  Net* net = nullptr;

 private:
  unsigned next_buffer_ = 0;
  std::array<std::uint64_t, VirtioRig::kQueueSize> places_{};
};

}  // namespace vmm::virtio
