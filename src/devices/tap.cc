#include "devices/tap.h"

#include <fcntl.h>
#include <linux/if_ether.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "base/log.h"
#include "devices/virtio/net_header.h"

namespace vmm {
namespace {

constexpr const char* kTunDevice = "/dev/net/tun";
constexpr short kFlags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;

Result<> check_name(const std::string& name) {
  // What the kernel takes (dev_valid_name()), less "%", with which it would choose a name itself.
  const bool fits = !name.empty() && name.size() < IFNAMSIZ && name != "." && name != "..";
  if (!fits || name.find_first_of("/:% \t\n\v\f\r") != std::string::npos ||
      name.find('\0') != std::string::npos) {
    return fail(ErrorKind::kUsage, "'{}' cannot be the name of a tap: 1 to {} characters fit", name,
                IFNAMSIZ - 1);
  }
  return success();
}

ifreq request_for(const std::string& name) {
  ifreq request{};
  std::memcpy(request.ifr_name, name.data(), std::min<std::size_t>(name.size(), IFNAMSIZ - 1));
  return request;
}

// The error of a TUNSETIFF, whose errno has not been touched since.
Error attach_error(const std::string& name, bool exists) {
  switch (errno) {
    case EBUSY:
      return make_error(ErrorKind::kFailed, "tap {} is in use by another process", name);
    case EINVAL:
      return make_error(ErrorKind::kUsage, "{} is not a tap interface with a single queue", name);
    case EPERM:
    case EACCES:
      if (exists) {
        return make_error(ErrorKind::kHost, "tap {} belongs to another user (see ip-tuntap(8))",
                          name);
      }
      return make_error(ErrorKind::kHost,
                        "there is no tap {}, and making one takes CAP_NET_ADMIN: "
                        "ip tuntap add {} mode tap user USER",
                        name, name);
    default:
      return system_error(ErrorKind::kHost, "cannot attach to tap {}", name);
  }
}

Result<> set_flags(const Fd& fd) {
  const int status = ::fcntl(fd.get(), F_GETFL);
  if (status < 0 || ::fcntl(fd.get(), F_SETFL, status | O_NONBLOCK) < 0 ||
      ::fcntl(fd.get(), F_SETFD, FD_CLOEXEC) < 0) {
    return fail_errno(ErrorKind::kUsage, "descriptor {} cannot be a tap", fd.get());
  }
  return success();
}

}  // namespace

Result<std::unique_ptr<Tap>> Tap::open_by_name(const std::string& name) {
  TRY(check_name(name));
  TRY(auto fd, open_file(kTunDevice, O_RDWR | O_NONBLOCK, 0, ErrorKind::kHost));
  const bool exists = ::if_nametoindex(name.c_str()) != 0;
  ifreq request = request_for(name);
  request.ifr_flags = kFlags;
  if (::ioctl(fd.get(), TUNSETIFF, &request) < 0) return fail(attach_error(name, exists));
  std::unique_ptr<Tap> tap(new Tap(name, std::move(fd)));
  TRY(tap->configure());
  tap->prepare_interface(!exists);
  return tap;
}

Result<std::unique_ptr<Tap>> Tap::adopt(Fd fd) {
  ifreq request{};
  if (::ioctl(fd.get(), TUNGETIFF, &request) < 0) {
    return fail_errno(ErrorKind::kUsage, "descriptor {} is not attached to a tap", fd.get());
  }
  const std::string name(request.ifr_name, ::strnlen(request.ifr_name, IFNAMSIZ));
  if ((request.ifr_flags & kFlags) != kFlags) {
    return fail(ErrorKind::kUsage,
                "descriptor {} ({}) is not a tap with IFF_VNET_HDR and IFF_NO_PI", fd.get(), name);
  }
  TRY(set_flags(fd));
  std::unique_ptr<Tap> tap(new Tap(name, std::move(fd)));
  TRY(tap->configure());
  return tap;
}

Result<> Tap::configure() {
  const int header = sizeof(virtio_net_hdr_v1);
  const int little_endian = 1;
  if (::ioctl(fd_.get(), TUNSETVNETHDRSZ, &header) < 0 ||
      ::ioctl(fd_.get(), TUNSETVNETLE, &little_endian) < 0) {
    return fail_errno(ErrorKind::kHost, "tap {} does not take virtio headers", name_);
  }
  probe_offload();
  return set_offload(0);
}

void Tap::probe_offload() {
  // Segmentation is refused without checksums, and ECN without segmentation (tun's set_offload()).
  constexpr unsigned kBase = TUN_F_CSUM;
  constexpr std::array<unsigned, 5> kSets = {kBase, kBase | TUN_F_TSO4, kBase | TUN_F_TSO6,
                                             kBase | TUN_F_TSO4 | TUN_F_TSO_ECN, kBase | TUN_F_UFO};
  for (const unsigned flags : kSets) {
    if (set_offload(flags).has_value()) offload_ |= flags;
  }
}

Result<> Tap::set_offload(unsigned flags) {
  if (::ioctl(fd_.get(), TUNSETOFFLOAD, static_cast<unsigned long>(flags)) < 0) {
    return fail_errno(ErrorKind::kHost, "tap {} does not take the offloads {:#x}", name_, flags);
  }
  return success();
}

// What may fail here leaves a tap that works as its owner has set it up.
void Tap::prepare_interface(bool created) {
  const Fd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  ifreq request = request_for(name_);
  if (::ioctl(socket.get(), SIOCGIFMTU, &request) == 0 && request.ifr_mtu != ETH_DATA_LEN &&
      std::in_range<std::uint16_t>(request.ifr_mtu)) {
    unusual_mtu_ = static_cast<std::uint16_t>(request.ifr_mtu);
  }
  if (::ioctl(socket.get(), SIOCGIFFLAGS, &request) < 0) return;
  const bool is_up = (request.ifr_flags & IFF_UP) != 0;
  if (is_up) return;
  request.ifr_flags = static_cast<short>(request.ifr_flags | IFF_UP);
  if (created && ::ioctl(socket.get(), SIOCSIFFLAGS, &request) == 0) return;
  log(LogLevel::kWarning, "tap {} is down: the guest reaches nothing until it is set up", name_);
}

}  // namespace vmm
