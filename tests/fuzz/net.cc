#include "devices/virtio/net.h"

#include <linux/if_tun.h>
#include <sys/socket.h>
#include <unistd.h>

#include "device_fuzzer.h"

// The network device, with frames in both directions, and a port that goes away.
namespace vmm::fuzz {
namespace {

class Port final : public PacketPort {
 public:
  Port() {
    int ends[2] = {-1, -1};
    check(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends) == 0,
          "there are sockets");
    fd_ = Fd(ends[0]);
    network_ = Fd(ends[1]);
  }

  [[nodiscard]] std::string_view name() const override { return "fuzz0"; }
  [[nodiscard]] const Fd& fd() const override { return fd_; }
  [[nodiscard]] unsigned offload() const override {
    return TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN | TUN_F_UFO;
  }
  [[nodiscard]] Result<> set_offload(unsigned flags) override {
    check((flags & ~offload()) == 0, "only what the port can do is asked of it");
    return success();
  }
  [[nodiscard]] std::optional<std::uint16_t> unusual_mtu() const override { return std::nullopt; }

  // A frame from the network; it may be lost on the way.
  void send(std::span<const std::byte> frame) {
    (void)::send(network_.get(), frame.data(), frame.size(), MSG_NOSIGNAL);
  }
  // Takes what the guest has sent.
  void drain() {
    static std::array<std::byte, 0x2'0000> frame;
    while (::read(network_.get(), frame.data(), frame.size()) > 0) {
    }
  }
  void lose() { ::shutdown(network_.get(), SHUT_WR); }

 private:
  Fd fd_;
  Fd network_;
};

void run(Input& input) {
  Port port;
  const MacAddress mac = MacAddress::parse("52:54:00:12:34:56").value();
  DeviceFuzzer fuzzer(
      [&](GuestMemory&, EventLoop& loop) {
        return std::make_unique<virtio::Net>("net", port, mac, loop);
      },
      [&](virtio::VirtioDevice& device, Input& events) {
        switch (events.below(8)) {
          case 0:
            return port.drain();
          case 1:
            return static_cast<virtio::Net&>(device).announce();
          case 2:
            if (events.below(8) == 0) port.lose();
            return;
          default: {
            const auto start = events.bytes(events.get<std::uint8_t>());
            std::vector<std::byte> frame(start.begin(), start.end());
            // Longer than any frame can be, too.
            const std::size_t unit = events.below(2) != 0 ? 32 : 1;
            frame.resize(events.get<std::uint16_t>() % 4096 * unit, std::byte{0x5a});
            return port.send(frame);
          }
        }
      });
  fuzzer.run(input);
}

const Target kTarget{"net", run};

}  // namespace
}  // namespace vmm::fuzz
