#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "devices/mac_address.h"
#include "devices/packet_port.h"

namespace vmm::virtio {

// A virtio-net header and a RARP request (RFC 903) from `mac` to everyone, as it teaches bridges
// and switches where the address is, without knowing any protocol address: 12 and 60 bytes.
inline constexpr std::size_t kAnnouncementBytes = 12 + 60;
[[nodiscard]] std::array<std::uint8_t, kAnnouncementBytes> announcement(const MacAddress& mac);

// Sends announcement() to the port. False where the port does not take it now; it is not waited
// for.
[[nodiscard]] bool send_announcement(const PacketPort& port, const MacAddress& mac);

}  // namespace vmm::virtio
