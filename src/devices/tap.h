#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "base/fd.h"
#include "base/result.h"
#include "devices/packet_port.h"

namespace vmm {

// A tap interface of the host with this process at its other end. It is owned outside of the
// guest's device, since it outlives a reboot. Not thread-safe, but for fd().
class Tap final : public PacketPort {
 public:
  // Attaches to an interface that is there, or makes one that goes with this object and brings it
  // up where the process may. Errors: kUsage where the name cannot be one or is not a tap's,
  // kFailed where another process has it, kHost where the permission is missing.
  [[nodiscard]] static Result<std::unique_ptr<Tap>> open_by_name(const std::string& name);

  // Takes over a descriptor that a parent process has attached to a tap with IFF_VNET_HDR. Errors
  // are of kind kUsage: not such a descriptor. Its MTU counts as usual, as the interface may be in
  // another network namespace.
  [[nodiscard]] static Result<std::unique_ptr<Tap>> adopt(Fd fd);

  [[nodiscard]] std::string_view name() const override { return name_; }
  [[nodiscard]] const Fd& fd() const override { return fd_; }
  [[nodiscard]] unsigned offload() const override { return offload_; }
  [[nodiscard]] Result<> set_offload(unsigned flags) override;
  [[nodiscard]] std::optional<std::uint16_t> unusual_mtu() const override { return unusual_mtu_; }

 private:
  Tap(std::string name, Fd fd) : name_(std::move(name)), fd_(std::move(fd)) {}

  [[nodiscard]] Result<> configure();
  void probe_offload();
  void prepare_interface(bool created);

  std::string name_;
  Fd fd_;
  unsigned offload_ = 0;
  std::optional<std::uint16_t> unusual_mtu_;
};

}  // namespace vmm
