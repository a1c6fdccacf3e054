#include "migration/control_link.h"

#include <array>
#include <utility>

namespace vmm::migration {
namespace {

constexpr auto kHeartbeat = static_cast<std::uint32_t>(MessageType::kHeartbeat);
// The protocol is a dialogue: a peer that is this far ahead of us does not follow it.
constexpr std::size_t kMaxQueuedFrames = 64;
constexpr std::size_t kMaxQueuedBytes = 2 * kMaxMachineState;
// Heartbeats in the time that a peer may be silent.
constexpr int kHeartbeatsPerTimeout = 4;

iovec part(std::span<const std::byte> bytes) {
  return {.iov_base = const_cast<std::byte*>(bytes.data()), .iov_len = bytes.size()};
}

}  // namespace

ControlLink::ControlLink(std::unique_ptr<Channel> channel, Options options)
    : channel_(std::move(channel)), options_(std::move(options)) {
  // Silence of the peer is the channel making no progress: it sends heartbeats.
  channel_->set_timeout(options_.timeout);
  reader_ = std::thread([this] { read_frames(); });
  heartbeats_ = std::thread([this] { send_heartbeats(); });
}

ControlLink::~ControlLink() {
  interrupt();
  reader_.join();
  heartbeats_.join();
}

Result<> ControlLink::send(std::uint32_t type, std::span<const std::byte> payload) {
  const auto most = max_payload(type);
  if (!most || payload.size() > most.value()) {
    return fail(ErrorKind::kMigration, "a message of type {} cannot have {} bytes", type,
                payload.size());
  }
  {
    const MutexLock lock(mutex_);
    if (error_) return fail(*error_);
  }
  auto written = write_frame(type, payload);
  if (written) return written;
  if (fail_link(std::move(written).error())) options_.on_failure();
  const MutexLock lock(mutex_);
  return fail(*error_);
}

Result<std::optional<Frame>> ControlLink::receive(std::chrono::milliseconds timeout) {
  const auto until = std::chrono::steady_clock::now() + timeout;
  const MutexLock lock(mutex_);
  while (frames_.empty()) {
    if (error_) return fail(*error_);
    if (changed_.wait_until(mutex_, until) == std::cv_status::timeout && frames_.empty()) {
      if (error_) return fail(*error_);
      return std::nullopt;
    }
  }
  Frame frame = std::move(frames_.front());
  frames_.pop_front();
  queued_bytes_ -= frame.payload.size();
  return frame;
}

void ControlLink::interrupt() {
  (void)fail_link(
      make_error(ErrorKind::kMigration, "the connection to {} was interrupted", peer()));
}

std::optional<Error> ControlLink::error() {
  const MutexLock lock(mutex_);
  return error_;
}

void ControlLink::read_frames() {
  for (;;) {
    auto frame = read_frame();
    Result<> queued = success();
    if (!frame) {
      queued = fail(std::move(frame).error());
    } else if (frame.value().type != kHeartbeat) {
      queued = queue(std::move(frame).value());
    }
    if (queued) continue;
    if (fail_link(std::move(queued).error())) options_.on_failure();
    return;
  }
}

Result<Frame> ControlLink::read_frame() {
  std::array<std::byte, kFrameHeaderBytes> bytes{};
  const auto header_part = part(bytes);
  TRY(channel_->read(std::span(&header_part, 1)));
  const auto header = decode_frame_header(bytes);
  if (!header) {
    return fail(ErrorKind::kMigration, "{} sent {}", peer(), header.error().message());
  }
  Frame frame{header.value().type, std::vector<std::byte>(header.value().length), {}};
  if (!frame.payload.empty()) {
    const auto payload = part(frame.payload);
    TRY(channel_->read(std::span(&payload, 1)));
  }
  frame.arrived = std::chrono::steady_clock::now();
  return frame;
}

Result<> ControlLink::queue(Frame frame) {
  const MutexLock lock(mutex_);
  if (frames_.size() == kMaxQueuedFrames ||
      queued_bytes_ + frame.payload.size() > kMaxQueuedBytes) {
    return fail(ErrorKind::kMigration, "{} sends messages that nobody asked for", peer());
  }
  queued_bytes_ += frame.payload.size();
  frames_.push_back(std::move(frame));
  changed_.notify_all();
  return success();
}

void ControlLink::send_heartbeats() {
  const auto interval = options_.timeout / kHeartbeatsPerTimeout;
  auto next = std::chrono::steady_clock::now() + interval;
  for (;;) {
    {
      const MutexLock lock(mutex_);
      while (!error_ && std::chrono::steady_clock::now() < next) changed_.wait_until(mutex_, next);
      if (error_) return;
    }
    next = std::chrono::steady_clock::now() + interval;
    auto written = write_frame(kHeartbeat, {});
    if (written) continue;
    if (fail_link(std::move(written).error())) options_.on_failure();
    return;
  }
}

Result<> ControlLink::write_frame(std::uint32_t type, std::span<const std::byte> payload) {
  const auto header = encode(FrameHeader{type, static_cast<std::uint32_t>(payload.size())});
  const std::array parts{part(header), part(payload)};
  const MutexLock lock(write_mutex_);
  return channel_->write(parts);
}

bool ControlLink::fail_link(Error error) {
  {
    const MutexLock lock(mutex_);
    if (error_) return false;
    error_ = std::move(error);
    changed_.notify_all();
  }
  channel_->interrupt();
  return true;
}

}  // namespace vmm::migration
