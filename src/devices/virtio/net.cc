#include "devices/virtio/net.h"

#include <linux/if_ether.h>
#include <linux/if_tun.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <utility>

#include "base/log.h"
#include "devices/device_state.h"
#include "devices/virtio/net_announce.h"
#include "devices/virtio/net_header.h"

namespace vmm::virtio {
namespace {

constexpr unsigned kReceiveQueue = 0;
constexpr unsigned kTransmitQueue = 1;
constexpr unsigned kControlQueue = 2;

// Room for a receive buffer of a driver that cannot merge them, with pages of 64 KiB; a frame to
// send is checked against kMaxFrame.
constexpr std::uint64_t kMaxReceiveBuffer = 2 << 20;
constexpr std::uint64_t kMaxSendChain = 256 << 10;
constexpr std::uint64_t kMaxCommand = 64 << 10;
constexpr std::array<QueueLimits, 3> kQueues{
    {{256, kMaxReceiveBuffer}, {256, kMaxSendChain}, {64, kMaxCommand}}};

// Bounds of one turn of the event loop, and after how much of it the driver is shown what is done.
constexpr unsigned kReceiveBatches = 4;
constexpr unsigned kSendFrames = 256;
constexpr std::uint64_t kPublishBytes = 128 * 1024;
constexpr unsigned kCommands = 16;
// A tap takes what it is given unless somebody has bounded its send buffer: then it is asked again
// at this distance.
constexpr std::chrono::milliseconds kSendRetry{1};
// More frames than a tap keeps by default (1000).
constexpr unsigned kMostWaiting = 4096;

constexpr std::size_t kHeader = sizeof(virtio_net_hdr_v1);
constexpr std::size_t kCommandHeader = 2;  // class and command
constexpr std::uint32_t kStateVersion = 1;

constexpr std::uint64_t bit(unsigned feature) {
  return std::uint64_t{1} << feature;
}

// What the driver can switch with VIRTIO_NET_CTRL_GUEST_OFFLOADS, and the port's name for it.
struct Offload {
  unsigned feature;
  unsigned flag;
};
constexpr std::array<Offload, 5> kGuestOffloads{{{VIRTIO_NET_F_GUEST_CSUM, TUN_F_CSUM},
                                                 {VIRTIO_NET_F_GUEST_TSO4, TUN_F_TSO4},
                                                 {VIRTIO_NET_F_GUEST_TSO6, TUN_F_TSO6},
                                                 {VIRTIO_NET_F_GUEST_ECN, TUN_F_TSO_ECN},
                                                 {VIRTIO_NET_F_GUEST_UFO, TUN_F_UFO}}};

constexpr std::uint64_t guest_offload_features(unsigned flags) {
  std::uint64_t features = 0;
  for (const auto& [feature, flag] : kGuestOffloads) {
    if ((flags & flag) != 0) features |= bit(feature);
  }
  return features;
}

// The port's flags for what the driver takes. A driver that takes what depends on something it does
// not take (virtio 1.2, 5.1.3.1) goes without.
constexpr unsigned port_flags(std::uint64_t features) {
  unsigned flags = 0;
  for (const auto& [feature, flag] : kGuestOffloads) {
    if ((features & bit(feature)) != 0) flags |= flag;
  }
  if ((flags & TUN_F_CSUM) == 0) return 0;
  if ((flags & (TUN_F_TSO4 | TUN_F_TSO6)) == 0) flags &= ~unsigned{TUN_F_TSO_ECN};
  return flags;
}

std::uint64_t features_with(const PacketPort& port) {
  std::uint64_t features = bit(VIRTIO_NET_F_MAC) | bit(VIRTIO_NET_F_STATUS) |
                           bit(VIRTIO_NET_F_MRG_RXBUF) | bit(VIRTIO_NET_F_CTRL_VQ) |
                           bit(VIRTIO_NET_F_GUEST_ANNOUNCE) | bit(VIRTIO_NET_F_CSUM) |
                           bit(VIRTIO_NET_F_HOST_TSO4) | bit(VIRTIO_NET_F_HOST_TSO6) |
                           bit(VIRTIO_NET_F_HOST_ECN) | guest_offload_features(port.offload());
  if ((port.offload() & TUN_F_UFO) != 0) features |= bit(VIRTIO_NET_F_HOST_UFO);
  if (port.offload() != 0) features |= bit(VIRTIO_NET_F_CTRL_GUEST_OFFLOADS);
  if (port.unusual_mtu()) features |= bit(VIRTIO_NET_F_MTU);
  return features;
}

// Copies the first bytes of a request out of guest memory, as many as there are or fit.
std::size_t copy_out(std::span<const iovec> parts, std::span<std::byte> out) {
  std::size_t copied = 0;
  for (const iovec& part : parts) {
    const std::size_t bytes = std::min(part.iov_len, out.size() - copied);
    std::memcpy(out.data() + copied, part.iov_base, bytes);
    copied += bytes;
    if (copied == out.size()) break;
  }
  return copied;
}

}  // namespace

Net::Net(std::string name, PacketPort& port, const MacAddress& mac, EventLoop& loop)
    : name_(std::move(name)),
      port_(port),
      mac_(mac),
      mtu_(port.unusual_mtu()),
      offered_(features_with(port)),
      readable_(loop.watch_readable(port.fd(), [this] { on_readable(); })),
      retry_(loop.make_timer([this] { on_retry(); })),
      receiver_(port) {
  readable_->set_enabled(false);
}

std::uint32_t Net::type() const {
  return VIRTIO_ID_NET;
}

std::span<const QueueLimits> Net::queue_limits() const {
  return kQueues;
}

std::vector<Counter> Net::counters() const {
  const MutexLock lock(mutex_);
  const NetReceiver::Counters& received = receiver_.counters();
  return {{"rx_packets", received.packets}, {"rx_bytes", received.bytes},
          {"rx_dropped", received.dropped}, {"rx_no_buffers", rx_no_buffers_},
          {"tx_packets", tx_packets_},      {"tx_bytes", tx_bytes_},
          {"tx_dropped", tx_dropped_}};
}

void Net::read_config(std::uint64_t offset, std::span<std::byte> data) const {
  virtio_net_config config{};
  std::ranges::copy(mac_.bytes(), config.mac);
  unsigned status = state_.link_up ? VIRTIO_NET_S_LINK_UP : 0;
  if (state_.announce_wanted) status |= VIRTIO_NET_S_ANNOUNCE;
  config.status = static_cast<std::uint16_t>(status);
  config.mtu = mtu_.value_or(0);
  std::ranges::fill(data, std::byte{0});
  const auto bytes = std::as_bytes(std::span(&config, 1));
  if (offset >= bytes.size()) return;
  const auto there = bytes.subspan(offset, std::min(data.size(), bytes.size() - offset));
  std::ranges::copy(there, data.begin());
}

// --- Life cycle ---

void Net::activate() {
  if (!active()) {
    // Restored: what the driver has chosen came with the state, and frames that already wait here
    // are for it.
    have_port_prepare(state_.guest_offloads & features());
    return;
  }
  set_guest_offloads(features() & guest_offload_features(port_.offload()));
  // What waits was meant for the driver before, and may be like this one cannot take it.
  receiver_.discard_waiting(kMostWaiting);
}

void Net::reset() {
  listen(false);
  if (Queue* rx = queue(kReceiveQueue)) receiver_.put_back(*rx);
  state_.announce_wanted = false;
  set_guest_offloads(0);
}

void Net::quiesce() {
  listen(false);
  if (Queue* rx = queue(kReceiveQueue)) receiver_.put_back(*rx);
}

void Net::resume() {
  // A link that was lost where the guest comes from is up here.
  if (state_.link_up || port_is_lost_) return;
  state_.link_up = true;
  transport().notify_config();
}

void Net::process(unsigned index) {
  switch (index) {
    case kReceiveQueue:
      // Where the port is watched, the kick is of a driver that adds buffers before they run out.
      if (!listening_) receive();
      break;
    case kTransmitQueue:
      transmit();
      break;
    default:
      control();
      break;
  }
}

void Net::driver_broke(const Error& error) {
  listen(false);
  transport().needs_reset(error);
}

void Net::port_lost() {
  listen(false);
  if (port_is_lost_) return;
  port_is_lost_ = true;
  log(LogLevel::kWarning, "{}: {} is gone, the link is down", name_, port_.name());
  state_.link_up = false;
  transport().notify_config();
}

void Net::set_guest_offloads(std::uint64_t features) {
  state_.guest_offloads = features;
  have_port_prepare(features);
}

void Net::have_port_prepare(std::uint64_t features) {
  const auto set = port_.set_offload(port_flags(features));
  if (!set && !port_is_lost_) log(LogLevel::kWarning, "{}: {}", name_, set.error().message());
}

// --- Receiving ---

void Net::listen(bool on) {
  if (listening_ == on) return;
  listening_ = on;
  readable_->set_enabled(on);
}

void Net::on_readable() {
  const MutexLock lock(mutex_);
  if (active() && listening_) receive();
}

void Net::receive() {
  Queue& rx = *queue(kReceiveQueue);
  rx.disable_kicks();
  for (unsigned batch = 0; batch < kReceiveBatches; ++batch) {
    const auto outcome = receiver_.receive(rx, has_feature(VIRTIO_NET_F_MRG_RXBUF));
    publish(rx);
    if (!outcome) return driver_broke(outcome.error());
    switch (outcome.value()) {
      case NetReceiver::Outcome::kMore:
        break;
      case NetReceiver::Outcome::kEmpty:
        return listen(true);
      case NetReceiver::Outcome::kLost:
        return port_lost();
      case NetReceiver::Outcome::kNoBuffers:
        ++rx_no_buffers_;
        listen(false);
        if (rx.enable_kicks()) transport().process_again(kReceiveQueue);
        return;
    }
  }
  listen(true);
}

// --- Sending ---

void Net::on_retry() {
  const MutexLock lock(mutex_);
  // Whether what was waited for is still there, transmit() sees itself.
  if (active() && queue(kTransmitQueue) != nullptr) transmit();
}

void Net::transmit() {
  Queue& tx = *queue(kTransmitQueue);
  unsigned left = kSendFrames;
  do {
    tx.disable_kicks();
    std::uint64_t unpublished = 0;
    for (;; --left) {
      if (left == 0) {
        publish(tx);
        return transport().process_again(kTransmitQueue);
      }
      const auto found = tx.pop(chain_);
      if (!found) {
        publish(tx);
        return driver_broke(found.error());
      }
      if (!found.value()) break;
      if (!send(chain_)) {
        tx.undo_pop();
        publish(tx);
        retry_->expires_after(kSendRetry);
        return;
      }
      tx.push(chain_, 0);
      unpublished += chain_.readable_bytes();
      if (unpublished >= kPublishBytes) {
        publish(tx);
        unpublished = 0;
      }
    }
    publish(tx);
  } while (tx.enable_kicks());
}

bool Net::send(const Chain& chain) {
  const std::uint64_t bytes = chain.readable_bytes();
  if (bytes >= kHeader + ETH_HLEN && bytes <= NetReceiver::kMaxFrame) {
    const auto parts = chain.readable();
    for (;;) {
      // The header is the guest's own; the kernel checks it and refuses what it cannot do.
      if (::writev(port_.fd().get(), parts.data(), static_cast<int>(parts.size())) >= 0) {
        ++tx_packets_;
        tx_bytes_ += bytes - kHeader;
        return true;
      }
      if (errno == EAGAIN) return false;
      if (errno != EINTR) break;
    }
  }
  ++tx_dropped_;
  return true;
}

void Net::announce() {
  const MutexLock lock(mutex_);
  // Not counted and not repeated: the caller does that, for all frames on the way may be lost.
  static_cast<void>(send_announcement(port_, mac_));
  constexpr std::uint64_t kNeeded =
      bit(VIRTIO_NET_F_GUEST_ANNOUNCE) | bit(VIRTIO_NET_F_STATUS) | bit(VIRTIO_NET_F_CTRL_VQ);
  if ((features() & kNeeded) != kNeeded || !active()) return;
  state_.announce_wanted = true;
  transport().notify_config();
}

// --- Control queue (virtio 1.2, 5.1.6.5) ---

void Net::control() {
  Queue& commands = *queue(kControlQueue);
  unsigned left = kCommands;
  do {
    for (;; --left) {
      if (left == 0) {
        publish(commands);
        return transport().process_again(kControlQueue);
      }
      const auto found = commands.pop(chain_);
      if (!found) {
        publish(commands);
        return driver_broke(found.error());
      }
      if (!found.value()) break;
      commands.push(chain_, answer(chain_));
    }
    publish(commands);
  } while (commands.enable_kicks());
}

std::uint32_t Net::answer(const Chain& chain) {
  // The longest command known here, and one byte more to tell a longer one from it.
  std::array<std::byte, kCommandHeader + sizeof(std::uint64_t) + 1> request;
  const std::size_t size = copy_out(chain.readable(), request);
  const auto answers = chain.writable();
  if (answers.empty()) return 0;
  const bool done = command(std::span(request).first(size));
  const auto ack = static_cast<virtio_net_ctrl_ack>(done ? VIRTIO_NET_OK : VIRTIO_NET_ERR);
  std::memcpy(answers[0].iov_base, &ack, sizeof ack);
  return sizeof ack;
}

bool Net::command(std::span<const std::byte> request) {
  ByteReader reader(request);
  const auto device_class = reader.get<std::uint8_t>();
  const auto code = reader.get<std::uint8_t>();
  if (!device_class || !code) return false;
  switch (device_class.value()) {
    case VIRTIO_NET_CTRL_ANNOUNCE: {
      if (code.value() != VIRTIO_NET_CTRL_ANNOUNCE_ACK) return false;
      state_.announce_wanted = false;
      return true;
    }
    case VIRTIO_NET_CTRL_GUEST_OFFLOADS: {
      const auto offloads = reader.get<std::uint64_t>();
      const std::uint64_t agreed = features() & guest_offload_features(port_.offload());
      if (code.value() != VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET || !offloads || !reader.expect_end() ||
          (offloads.value() & ~agreed) != 0 || !has_feature(VIRTIO_NET_F_CTRL_GUEST_OFFLOADS)) {
        return false;
      }
      set_guest_offloads(offloads.value());
      return true;
    }
    default:
      return false;
  }
}

// --- Saved state ---

void Net::save_state(ByteWriter& writer) const {
  writer.put(kStateVersion);
  writer.put_bytes(std::as_bytes(std::span(mac_.bytes())));
  writer.put(mtu_.value_or(0));
  writer.put_bool(state_.link_up);
  writer.put_bool(state_.announce_wanted);
  writer.put(state_.guest_offloads);
}

Result<> Net::restore_state(ByteReader& reader) {
  TRY(expect_state_version(reader, name_, kStateVersion));
  TRY(const auto mac, reader.get_bytes(MacAddress::kBytes));
  if (!std::ranges::equal(mac, std::as_bytes(std::span(mac_.bytes())))) {
    return fail(ErrorKind::kFailed, "{}: the saved MAC address is not {}", name_, mac_.to_string());
  }
  TRY(const auto mtu, reader.get<std::uint16_t>());
  State state;
  TRY(state.link_up, reader.get_bool());
  TRY(state.announce_wanted, reader.get_bool());
  TRY(state.guest_offloads, reader.get<std::uint64_t>());
  if (mtu != mtu_.value_or(0)) {
    return fail(ErrorKind::kFailed, "{}: the saved MTU is {}, that of {} is {}", name_, mtu,
                port_.name(), mtu_.value_or(ETH_DATA_LEN));
  }
  const std::uint64_t possible = guest_offload_features(port_.offload());
  if ((state.guest_offloads & ~possible) != 0) {
    return fail(bad_state_field(name_, "guest offloads", state.guest_offloads));
  }
  TRY(reader.expect_end());
  state_ = state;
  return success();
}

}  // namespace vmm::virtio
