#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "base/fd.h"
#include "base/result.h"

namespace vmm {

// Where the frames of a network device come from and go to, as an interface so that tests can be
// the network. One read or write of fd() is one frame, with a virtio_net_hdr_v1 of 12 bytes in
// front, whose num_buffers is not looked at and not filled in; fd() does not block.
class PacketPort {
 public:
  PacketPort() = default;
  PacketPort(const PacketPort&) = delete;
  PacketPort& operator=(const PacketPort&) = delete;
  virtual ~PacketPort() = default;

  // For messages: "tap0".
  [[nodiscard]] virtual std::string_view name() const = 0;
  [[nodiscard]] virtual const Fd& fd() const = 0;

  // What frames that are read can be like (TUN_F_*): those that set_offload() takes. Frames that
  // are written may use partial checksums and TCP segmentation in any case.
  [[nodiscard]] virtual unsigned offload() const = 0;
  // Has frames read from now on need no more than these.
  [[nodiscard]] virtual Result<> set_offload(unsigned flags) = 0;

  // The largest payload of a frame, where it is known and not Ethernet's usual 1500.
  [[nodiscard]] virtual std::optional<std::uint16_t> unusual_mtu() const = 0;
};

}  // namespace vmm
