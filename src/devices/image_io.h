#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <vector>

#include "base/mapping.h"
#include "devices/disk_image.h"
#include "devices/io_engine.h"

namespace vmm {

// Something to do with a disk image. The owner fills in the first part and keeps the request where
// it is until ImageIo gives it back; reuse one, so that its memory is, too.
struct ImageRequest : private IoCall {
  enum class Operation : std::uint8_t { kRead, kWrite, kFlush, kDiscard, kWriteZeroes };

  Operation operation = Operation::kRead;
  bool unmap = false;        // of kWriteZeroes: the space may be given back
  bool durable = false;      // of kWrite and kWriteZeroes: done only when it would survive a crash
  std::uint64_t start = 0;   // bytes; with size it lies within the image
  std::uint64_t size = 0;    // bytes, but of kFlush
  std::vector<iovec> parts;  // of kRead and kWrite: memory of `size` bytes; used up on return

  int error = 0;  // the result: 0 or an errno

 private:
  friend class ImageIo;
  // Ways to write zeros, best first, that are left to try.
  enum class Zeroing : std::uint8_t { kPunch, kZeroRange, kWrite };

  Zeroing zeroing_ = Zeroing::kPunch;
  bool syncing_ = false;        // the data is written, and now made durable
  bool bounced_ = false;        // through the bounce buffer, piece by piece
  std::uint64_t done_ = 0;      // bytes
  std::size_t first_part_ = 0;  // that is not used up
};

// Carries out requests on a disk image: goes on after short transfers, copies where direct I/O does
// not take the memory as it is, and finds the way to write zeros that the file system knows. A
// kFlush covers the requests that came back before it started. Not thread-safe.
//
// One request has at most one call under way at a time, so the engine's depth is the number of
// requests that may be.
class ImageIo {
 public:
  // image must outlive this. Nothing may be under way at destruction.
  ImageIo(DiskImage& image, std::unique_ptr<IoEngine> engine);

  // Takes a request; submit() makes sure it starts.
  void start(ImageRequest& request);
  void submit() { engine_->submit(); }
  // Appends requests that are done to `done`, and moves others on.
  void reap(std::vector<ImageRequest*>& done);
  // Blocks until reap() can make progress. Something must be under way, all of it submitted.
  void wait() { engine_->wait(); }
  // Waits for the calls under way and drops all requests, however far they have got.
  void abandon();

  [[nodiscard]] std::size_t under_way() const { return under_way_; }
  // See IoEngine.
  [[nodiscard]] const Fd& ready_fd() const { return engine_->ready_fd(); }

 private:
  using Operation = ImageRequest::Operation;
  using Zeroing = ImageRequest::Zeroing;

  void add(ImageRequest& request, IoCall::Kind kind, int flags);
  void allocate(ImageRequest& request, int mode);
  void finish(ImageRequest& request, int error);
  void go_on(ImageRequest& request);
  void transfer(ImageRequest& request);
  void zero(ImageRequest& request);
  void handle_completions();
  void complete(ImageRequest& request);
  void complete_allocation(ImageRequest& request, int error);
  void advance(ImageRequest& request, std::size_t bytes);
  [[nodiscard]] bool needs_bounce(const ImageRequest& request) const;
  [[nodiscard]] bool take_bounce_buffer(ImageRequest& request);
  void release_bounce_buffer();

  DiskImage& image_;
  std::unique_ptr<IoEngine> engine_;
  std::size_t under_way_ = 0;  // started, and not in done_ or dropped
  bool abandoning_ = false;
  bool punches_ = true;  // as long as the file system has not refused
  bool zeroes_ranges_ = true;
  std::vector<ImageRequest*> done_;

  Mapping bounce_;  // made when it is first needed
  ImageRequest* bounce_user_ = nullptr;
  std::deque<ImageRequest*> bounce_waiters_;
  iovec bounce_part_{};
  Mapping zeros_;  // made when it is first needed
  std::vector<iovec> zero_parts_;
};

}  // namespace vmm
