#include "devices/virtio/net_receiver.h"

#include <linux/if_ether.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "devices/virtio/net_header.h"

namespace vmm::virtio {
namespace {

constexpr std::size_t kHeader = sizeof(virtio_net_hdr_v1);
constexpr std::size_t kVlanTag = 4;
constexpr std::size_t kShortFrame = kHeader + ETH_HLEN + kVlanTag + ETH_DATA_LEN;

// After this many short frames the next one is expected to be short, too.
constexpr unsigned kShortRun = 64;
// Bounds of a batch. The driver sees nothing of it before it is published, so that it should work
// on one while the next is received.
constexpr unsigned kBatchFrames = 64;
constexpr std::size_t kBatchBytes = 128 * 1024;
// Held buffers and the spill must fit one readv() (UIO_MAXIOV).
constexpr std::size_t kMaxParts = 1024;
// One more buffer can have as many segments as the queue has descriptors.
constexpr std::size_t kMaxQueue = 256;
constexpr std::size_t kMaxHeldSegments = kMaxParts - 1 - kMaxQueue;

}  // namespace

NetReceiver::NetReceiver(const PacketPort& port)
    : port_(port), held_(kMaxHeld), target_(kShortFrame), spill_(kMaxFrame) {
  parts_.reserve(kMaxParts);
}

Result<NetReceiver::Outcome> NetReceiver::receive(Queue& queue, bool mergeable) {
  std::size_t bytes = 0;
  for (unsigned frames = 0; frames < kBatchFrames && bytes < kBatchBytes; ++frames) {
    if (frame_bytes_ == 0) {
      const std::size_t wanted = mergeable ? target_ : kHeader;
      TRY(gather(queue, wanted));
      if (held_count_ == 0) return Outcome::kNoBuffers;
      const ssize_t got = read_frame(wanted);
      if (got < 0 && errno == EAGAIN) return Outcome::kEmpty;
      if (got <= 0) return Outcome::kLost;
      frame_bytes_ = static_cast<std::size_t>(got);
    }
    bytes += frame_bytes_;
    TRY(const bool done, deliver(queue, mergeable));
    if (!done) return Outcome::kNoBuffers;
  }
  return Outcome::kMore;
}

Result<> NetReceiver::gather(Queue& queue, std::size_t bytes) {
  while (held_bytes_ < bytes && held_count_ < kMaxHeld && held_segments_ < kMaxHeldSegments) {
    Chain& chain = held(held_count_);
    TRY(const bool found, queue.pop(chain));
    if (!found) break;
    if (chain.writable_bytes() < kHeader) {
      return fail(ErrorKind::kFailed, "a receive buffer of {} bytes", chain.writable_bytes());
    }
    ++held_count_;
    held_bytes_ += chain.writable_bytes();
    held_segments_ += chain.writable().size();
  }
  return success();
}

ssize_t NetReceiver::read_frame(std::size_t wanted) {
  parts_.clear();
  frame_in_place_ = 0;
  for (std::size_t i = 0; i < held_count_ && frame_in_place_ < wanted; ++i) {
    for (const iovec& segment : held(i).writable()) parts_.push_back(segment);
    frame_in_place_ += held(i).writable_bytes();
  }
  parts_.push_back({spill_.data(), spill_.size()});
  for (;;) {
    const auto got = ::readv(port_.fd().get(), parts_.data(), static_cast<int>(parts_.size()));
    if (got >= 0 || errno != EINTR) return got;
  }
}

Result<bool> NetReceiver::deliver(Queue& queue, bool mergeable) {
  if (frame_bytes_ < kHeader || frame_bytes_ > kMaxFrame) {
    drop_frame(queue);
    return true;
  }
  if (frame_bytes_ > frame_in_place_) {
    // A whole frame goes into one buffer unless buffers can be merged (virtio 1.2, 5.1.6.4).
    if (mergeable) {
      TRY(gather(queue, frame_bytes_));
    }
    const std::size_t room = mergeable ? held_bytes_ : frame_in_place_;
    if (room < frame_bytes_) {
      const bool can_wait = mergeable && held_count_ < queue.size() && held_count_ < kMaxHeld &&
                            held_segments_ < kMaxHeldSegments;
      if (can_wait) return false;
      drop_frame(queue);
      return true;
    }
    copy_to_held(frame_in_place_, std::span(spill_).first(frame_bytes_ - frame_in_place_));
  }
  if (frame_bytes_ > kShortFrame) {
    target_ = kMaxFrame;
    short_frames_ = 0;
  } else if (target_ > kShortFrame && ++short_frames_ >= kShortRun) {
    target_ = kShortFrame;
  }
  push_frame(queue);
  return true;
}

void NetReceiver::push_frame(Queue& queue) {
  std::uint16_t buffers = 0;
  for (std::size_t room = 0; room < frame_bytes_; ++buffers) room += held(buffers).writable_bytes();
  set_buffer_count(buffers);

  std::size_t left = frame_bytes_;
  for (std::uint16_t i = 0; i < buffers; ++i) {
    const Chain& chain = held(0);
    const std::size_t part = std::min<std::size_t>(left, chain.writable_bytes());
    queue.push(chain, static_cast<std::uint32_t>(part));
    left -= part;
    held_bytes_ -= chain.writable_bytes();
    held_segments_ -= chain.writable().size();
    first_ = (first_ + 1) % kMaxHeld;
    --held_count_;
  }
  ++counters_.packets;
  counters_.bytes += frame_bytes_ - kHeader;
  frame_bytes_ = 0;
}

void NetReceiver::set_buffer_count(std::uint16_t count) {
  constexpr std::size_t kOffset = offsetof(virtio_net_hdr_v1, num_buffers);
  const iovec& first = held(0).writable()[0];
  if (first.iov_len >= kHeader) {
    std::memcpy(static_cast<std::byte*>(first.iov_base) + kOffset, &count, sizeof count);
  } else {
    copy_to_held(kOffset, std::as_bytes(std::span(&count, 1)));
  }
}

void NetReceiver::copy_to_held(std::size_t offset, std::span<const std::byte> data) {
  for (std::size_t i = 0; !data.empty(); ++i) {
    for (const iovec& segment : held(i).writable()) {
      if (offset >= segment.iov_len) {
        offset -= segment.iov_len;
        continue;
      }
      const std::size_t part = std::min(segment.iov_len - offset, data.size());
      std::memcpy(static_cast<std::byte*>(segment.iov_base) + offset, data.data(), part);
      data = data.subspan(part);
      if (data.empty()) return;
      offset = 0;
    }
  }
}

void NetReceiver::drop_frame(const Queue& queue) {
  // The driver is not told of what has arrived in its buffers, but it is there.
  std::size_t left = std::min(frame_bytes_, frame_in_place_);
  for (std::size_t i = 0; left != 0; ++i) {
    const std::size_t part = std::min<std::size_t>(left, held(i).writable_bytes());
    queue.mark_written(held(i), part);
    left -= part;
  }
  frame_bytes_ = 0;
  ++counters_.dropped;
}

void NetReceiver::put_back(Queue& queue) {
  if (frame_bytes_ != 0) drop_frame(queue);
  queue.undo_pop(static_cast<std::uint16_t>(held_count_));
  held_count_ = 0;
  held_bytes_ = 0;
  held_segments_ = 0;
}

void NetReceiver::discard_waiting(unsigned most) {
  std::array<std::byte, kShortFrame> frame;
  for (; most > 0; --most) {
    if (::read(port_.fd().get(), frame.data(), frame.size()) <= 0) return;
    ++counters_.dropped;
  }
}

}  // namespace vmm::virtio
