#include "devices/image_io.h"

#include <fcntl.h>
#include <linux/falloc.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

namespace vmm {
namespace {

constexpr std::size_t kBounceBytes = 256 * 1024;
// Zeros are written from one small buffer, many times in a call.
constexpr std::size_t kZeroBytes = 64 * 1024;
constexpr std::size_t kZeroParts = 16;
constexpr std::size_t kBufferAlignment = 4096;
constexpr std::size_t kReapBatch = 64;

// Copies between a flat buffer and the parts of a request.
void copy_parts(std::span<const iovec> parts, std::span<std::byte> flat, bool to_parts) {
  for (const iovec& part : parts) {
    if (flat.empty()) return;
    const std::size_t bytes = std::min(part.iov_len, flat.size());
    if (to_parts) {
      std::memcpy(part.iov_base, flat.data(), bytes);
    } else {
      std::memcpy(flat.data(), part.iov_base, bytes);
    }
    flat = flat.subspan(bytes);
  }
}

}  // namespace

ImageIo::ImageIo(DiskImage& image, std::unique_ptr<IoEngine> engine)
    : image_(image), engine_(std::move(engine)) {}

void ImageIo::start(ImageRequest& request) {
  ++under_way_;
  request.done_ = 0;
  request.first_part_ = 0;
  request.syncing_ = false;
  request.bounced_ = false;
  // Whoever has the image by now would not like it.
  if (!image_.held()) return finish(request, EIO);
  switch (request.operation) {
    case Operation::kRead:
    case Operation::kWrite:
      request.bounced_ = needs_bounce(request);
      if (!request.bounced_ || take_bounce_buffer(request)) go_on(request);
      break;
    case Operation::kFlush:
      if (image_.read_only()) return finish(request, 0);
      add(request, IoCall::Kind::kDataSync, 0);
      break;
    case Operation::kDiscard:
      if (!punches_) return finish(request, 0);
      allocate(request, FALLOC_FL_PUNCH_HOLE);
      break;
    case Operation::kWriteZeroes:
      request.zeroing_ = request.unmap ? Zeroing::kPunch : Zeroing::kZeroRange;
      go_on(request);
      break;
  }
}

void ImageIo::add(ImageRequest& request, IoCall::Kind kind, int flags) {
  IoCall& call = request;
  call.kind = kind;
  call.flags = flags;
  call.fd = image_.fd().get();
  engine_->add(call);
}

void ImageIo::allocate(ImageRequest& request, int mode) {
  IoCall& call = request;
  call.offset = request.start;
  call.length = request.size;
  add(request, IoCall::Kind::kAllocate, mode | FALLOC_FL_KEEP_SIZE);
}

void ImageIo::finish(ImageRequest& request, int error) {
  request.error = error;
  --under_way_;
  done_.push_back(&request);
  if (bounce_user_ == &request) release_bounce_buffer();
}

// The next call of a request that is not through.
void ImageIo::go_on(ImageRequest& request) {
  if (request.done_ == request.size) {
    // The call that writes data can make it durable itself; only fallocate() cannot.
    if (request.operation == Operation::kWriteZeroes && request.durable && !request.syncing_) {
      request.syncing_ = true;
      return add(request, IoCall::Kind::kDataSync, 0);
    }
    return finish(request, 0);
  }
  if (request.operation == Operation::kWriteZeroes) return zero(request);
  transfer(request);
}

void ImageIo::transfer(ImageRequest& request) {
  const bool write = request.operation == Operation::kWrite;
  IoCall& call = request;
  call.offset = request.start + request.done_;
  const auto parts = std::span<const iovec>(request.parts).subspan(request.first_part_);
  if (request.bounced_) {
    const std::size_t bytes = std::min(kBounceBytes, request.size - request.done_);
    if (write) copy_parts(parts, bounce_.bytes().first(bytes), false);
    bounce_part_ = {bounce_.data(), bytes};
    call.buffers = std::span(&bounce_part_, 1);
  } else {
    call.buffers = parts;
  }
  add(request, write ? IoCall::Kind::kWrite : IoCall::Kind::kRead,
      write && request.durable ? RWF_DSYNC : 0);
}

void ImageIo::zero(ImageRequest& request) {
  if (request.zeroing_ == Zeroing::kPunch && !punches_) request.zeroing_ = Zeroing::kZeroRange;
  if (request.zeroing_ == Zeroing::kZeroRange && !zeroes_ranges_) {
    request.zeroing_ = Zeroing::kWrite;
  }
  if (request.zeroing_ != Zeroing::kWrite) {
    const bool punch = request.zeroing_ == Zeroing::kPunch;
    return allocate(request, punch ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE);
  }
  if (zeros_.size() == 0) {
    auto zeros = Mapping::anonymous(kZeroBytes, kBufferAlignment);
    if (!zeros) return finish(request, ENOMEM);
    zeros_ = std::move(zeros).value();
  }
  IoCall& call = request;
  call.offset = request.start + request.done_;
  request.parts.clear();
  for (std::uint64_t left = request.size - request.done_;
       left != 0 && request.parts.size() < kZeroParts;) {
    const std::uint64_t bytes = std::min<std::uint64_t>(left, kZeroBytes);
    request.parts.push_back({zeros_.data(), bytes});
    left -= bytes;
  }
  call.buffers = request.parts;
  add(request, IoCall::Kind::kWrite, 0);
}

void ImageIo::reap(std::vector<ImageRequest*>& done) {
  handle_completions();
  engine_->submit();
  done.insert(done.end(), done_.begin(), done_.end());
  done_.clear();
}

void ImageIo::handle_completions() {
  std::array<IoCall*, kReapBatch> calls;
  std::size_t count = 0;
  do {
    count = engine_->reap(calls);
    for (std::size_t i = 0; i < count; ++i) complete(static_cast<ImageRequest&>(*calls[i]));
  } while (count == calls.size());
}

// A call has come back.
void ImageIo::complete(ImageRequest& request) {
  const IoCall& call = request;
  if (abandoning_) return finish(request, ECANCELED);
  if (call.result == -EINTR || call.result == -EAGAIN) return engine_->add(request);
  switch (call.kind) {
    case IoCall::Kind::kDataSync:
      return finish(request, call.result < 0 ? -call.result : 0);
    case IoCall::Kind::kAllocate:
      return complete_allocation(request, call.result < 0 ? -call.result : 0);
    case IoCall::Kind::kRead:
    case IoCall::Kind::kWrite:
      if (call.result < 0) return finish(request, -call.result);
      // The image has shrunk.
      if (call.result == 0) return finish(request, EIO);
      advance(request, static_cast<std::size_t>(call.result));
      return go_on(request);
  }
}

void ImageIo::complete_allocation(ImageRequest& request, int error) {
  const bool discard = request.operation == Operation::kDiscard;
  if (error == EOPNOTSUPP || error == ENOSYS) {
    const bool punch = discard || request.zeroing_ == Zeroing::kPunch;
    (punch ? punches_ : zeroes_ranges_) = false;
    return discard ? finish(request, 0) : zero(request);  // a discard is but a hint
  }
  if (error != 0) return finish(request, error);
  request.done_ = request.size;
  discard ? finish(request, 0) : go_on(request);
}

// Takes account of bytes that were transferred.
void ImageIo::advance(ImageRequest& request, std::size_t bytes) {
  request.done_ += bytes;
  if (request.operation == Operation::kWriteZeroes) return;
  if (request.bounced_ && request.operation == Operation::kRead) {
    const auto parts = std::span<const iovec>(request.parts).subspan(request.first_part_);
    copy_parts(parts, bounce_.bytes().first(bytes), true);
  }
  while (bytes != 0) {
    iovec& part = request.parts[request.first_part_];
    const std::size_t used = std::min(part.iov_len, bytes);
    part.iov_base = static_cast<std::byte*>(part.iov_base) + used;
    part.iov_len -= used;
    bytes -= used;
    if (part.iov_len == 0) ++request.first_part_;
  }
}

// --- Bounce buffer: there is one, and requests that need it queue up ---

bool ImageIo::needs_bounce(const ImageRequest& request) const {
  if (!image_.direct()) return false;
  const TransferAlignment& alignment = image_.alignment();
  return !std::ranges::all_of(request.parts, [&](const iovec& part) {
    return reinterpret_cast<std::uintptr_t>(part.iov_base) % alignment.memory == 0 &&
           part.iov_len % alignment.block == 0;
  });
}

bool ImageIo::take_bounce_buffer(ImageRequest& request) {
  if (bounce_user_ != nullptr) {
    bounce_waiters_.push_back(&request);
    return false;
  }
  if (bounce_.size() == 0) {
    auto buffer = Mapping::anonymous(kBounceBytes, kBufferAlignment);
    if (!buffer) {
      finish(request, ENOMEM);
      return false;
    }
    bounce_ = std::move(buffer).value();
  }
  bounce_user_ = &request;
  return true;
}

void ImageIo::release_bounce_buffer() {
  bounce_user_ = nullptr;
  if (bounce_waiters_.empty()) return;
  bounce_user_ = bounce_waiters_.front();
  bounce_waiters_.pop_front();
  go_on(*bounce_user_);
}

void ImageIo::abandon() {
  abandoning_ = true;
  under_way_ -= bounce_waiters_.size();
  bounce_waiters_.clear();
  engine_->submit();
  while (under_way_ != 0) {
    engine_->wait();
    handle_completions();
  }
  done_.clear();
  abandoning_ = false;
}

}  // namespace vmm
