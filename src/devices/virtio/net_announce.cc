#include "devices/virtio/net_announce.h"

#include <arpa/inet.h>
#include <linux/if_arp.h>
#include <linux/if_ether.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "devices/virtio/net_header.h"

namespace vmm::virtio {
namespace {

// Ethernet over IPv4, whose addresses are unknown and zero (RFC 826, RFC 903).
struct RarpFrame {
  ethhdr ethernet;
  std::uint16_t hardware_type;
  std::uint16_t protocol_type;
  std::uint8_t hardware_size;
  std::uint8_t protocol_size;
  std::uint16_t operation;
  std::uint8_t sender[ETH_ALEN];
  std::uint8_t sender_protocol[4];
  std::uint8_t target[ETH_ALEN];
  std::uint8_t target_protocol[4];
} __attribute__((packed));

static_assert(kAnnouncementBytes == sizeof(virtio_net_hdr_v1) + ETH_ZLEN);
static_assert(sizeof(RarpFrame) <= ETH_ZLEN);

}  // namespace

std::array<std::uint8_t, kAnnouncementBytes> announcement(const MacAddress& mac) {
  RarpFrame frame{};
  std::ranges::fill(frame.ethernet.h_dest, std::uint8_t{0xff});
  std::ranges::copy(mac.bytes(), frame.ethernet.h_source);
  frame.ethernet.h_proto = htons(ETH_P_RARP);
  frame.hardware_type = htons(ARPHRD_ETHER);
  frame.protocol_type = htons(ETH_P_IP);
  frame.hardware_size = ETH_ALEN;
  frame.protocol_size = sizeof frame.sender_protocol;
  frame.operation = htons(ARPOP_RREQUEST);
  std::ranges::copy(mac.bytes(), frame.sender);
  std::ranges::copy(mac.bytes(), frame.target);
  std::array<std::uint8_t, kAnnouncementBytes> bytes{};
  std::memcpy(bytes.data() + sizeof(virtio_net_hdr_v1), &frame, sizeof frame);
  return bytes;
}

bool send_announcement(const PacketPort& port, const MacAddress& mac) {
  const auto bytes = announcement(mac);
  return ::write(port.fd().get(), bytes.data(), bytes.size()) >= 0;
}

}  // namespace vmm::virtio
