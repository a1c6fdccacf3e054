#pragma once

#include <arpa/inet.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>
#include <optional>
#include <string>

#include "base/fd.h"
#include "devices/tap.h"

namespace vmm {

// A network namespace with nothing in it, and what an administrator does there.
class TapFixture : public ::testing::Test {
 protected:
  TapFixture() {
    EXPECT_EQ(::unshare(CLONE_NEWNET), 0) << "needs root";
    control_ = Fd(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  }

  // Attaches to an interface as a parent process would, making it where it is missing.
  static Fd attach(const std::string& name, int flags, bool persistent = false) {
    Fd fd = open_file("/dev/net/tun", O_RDWR).value();
    ifreq request = named(name);
    request.ifr_flags = static_cast<short>(flags);
    EXPECT_EQ(::ioctl(fd.get(), TUNSETIFF, &request), 0) << std::strerror(errno);
    EXPECT_EQ(::ioctl(fd.get(), TUNSETPERSIST, persistent ? 1UL : 0UL), 0);
    return fd;
  }
  static ifreq named(const std::string& name) {
    ifreq request{};
    std::memcpy(request.ifr_name, name.data(), name.size());
    return request;
  }
  static bool exists(const std::string& name) { return ::if_nametoindex(name.c_str()) != 0; }
  bool is_up(const std::string& name) {
    ifreq request = named(name);
    EXPECT_EQ(::ioctl(control_.get(), SIOCGIFFLAGS, &request), 0);
    return (request.ifr_flags & IFF_UP) != 0;
  }
  void set_up(const std::string& name, bool up) {
    ifreq request = named(name);
    EXPECT_EQ(::ioctl(control_.get(), SIOCGIFFLAGS, &request), 0);
    request.ifr_flags =
        static_cast<short>(up ? request.ifr_flags | IFF_UP : request.ifr_flags & ~IFF_UP);
    EXPECT_EQ(::ioctl(control_.get(), SIOCSIFFLAGS, &request), 0);
  }
  void set_mtu(const std::string& name, int mtu) {
    ifreq request = named(name);
    request.ifr_mtu = mtu;
    EXPECT_EQ(::ioctl(control_.get(), SIOCSIFMTU, &request), 0);
  }

 private:
  Fd control_;
};

// Somebody on the network behind a tap: sends and receives frames of one protocol.
class Peer {
 public:
  static constexpr std::uint16_t kProtocol = 0x88b5;  // for local experiments (IEEE 802)

  explicit Peer(const std::string& interface)
      : socket_(::socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, htons(kProtocol))) {
    address_.sll_family = AF_PACKET;
    address_.sll_protocol = htons(kProtocol);
    address_.sll_ifindex = static_cast<int>(::if_nametoindex(interface.c_str()));
    EXPECT_EQ(::bind(socket_.get(), address(), sizeof address_), 0) << std::strerror(errno);
  }
  // An Ethernet frame of kProtocol with this payload.
  static std::string frame(const std::string& payload) {
    return std::string("\x52\x54\x00\x12\x34\x56\x02\x00\x00\x00\x00\x01\x88\xb5", 14) + payload;
  }
  void send(const std::string& frame) {
    EXPECT_EQ(::write(socket_.get(), frame.data(), frame.size()),
              static_cast<ssize_t>(frame.size()))
        << std::strerror(errno);
  }
  std::optional<std::string> receive() {
    std::string frame(100'000, '\0');
    const auto size = ::read(socket_.get(), frame.data(), frame.size());
    if (size < 0) return std::nullopt;
    frame.resize(static_cast<std::size_t>(size));
    return frame;
  }

 private:
  [[nodiscard]] const sockaddr* address() const {
    return reinterpret_cast<const sockaddr*>(&address_);
  }
  Fd socket_;
  sockaddr_ll address_{};
};

}  // namespace vmm
