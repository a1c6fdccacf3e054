#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/result.h"
#include "base/thread_annotations.h"
#include "memory/dirty_bitmap.h"
#include "memory/dirty_log.h"
#include "memory/guest_memory.h"

namespace vmm {

// Dirty pages of one aligned piece of RAM, what a sender works on at a time.
struct DirtyChunk {
  static constexpr std::uint64_t kPages = 256;

  std::uint64_t first = 0;  // a multiple of kPages; the last chunk of RAM may be shorter
  // Bit n is page first + n.
  std::array<std::uint64_t, kPages / kPagesPerWord> bits{};
};

// The pages of a guest that have to be sent (again): what the host's log says the vCPUs wrote, what
// the VMM's own devices wrote or gave back, and what was taken but could not be sent.
//
//   start() ─► pending: all ─► take() … ─► harvest() ─► take() … ─► harvest() … stop()
//
// A chunk is cleared in the log before take() returns it. Who then looks into the pagemap, and then
// reads the pages, sees either the last write or a page that the next harvest finds again. Each
// clear flushes the guest's TLBs, so that several chunks are cleared at once, shortly before the
// first of them is taken.
//
// Threads: take() and put_back() from any number at once, and remaining() and clear_time() at any
// time; the others only while nobody takes. The log and the memory outlive the tracker, which ends
// logging when it goes.
class DirtyTracker {
 public:
  // The log is of exactly the pages of the memory.
  DirtyTracker(DirtyLog& log, GuestMemory& memory);
  DirtyTracker(const DirtyTracker&) = delete;
  DirtyTracker& operator=(const DirtyTracker&) = delete;
  ~DirtyTracker();

  // Turns the log on; every page is pending, without having been read from the log.
  [[nodiscard]] Result<> start(DirtyLogMode mode);
  [[nodiscard]] Result<> set_mode(DirtyLogMode mode);
  // Ends logging, whatever is pending; does nothing where it is off.
  [[nodiscard]] Result<> stop();

  // Adds everything written since its chunk was taken to what is pending, and lets take() begin at
  // the start of RAM again. Returns the number of pending pages. On error nothing is lost.
  [[nodiscard]] Result<std::uint64_t> harvest();

  // The next chunk with pending pages, which are no longer pending and are cleared in the log;
  // nothing where this pass over RAM is complete. On error the pages stay pending.
  [[nodiscard]] Result<std::optional<DirtyChunk>> take();
  // Makes pages of a chunk that could not be sent pending again, from the next harvest() on.
  void put_back(const DirtyChunk& chunk);

  // For a sampler of the dirty rate, which sends nothing: clears all that is pending, in pieces as
  // large as a vCPU that faults meanwhile can bear, and ORs it into `seen` (a bit per page).
  [[nodiscard]] Result<> clear_pending(std::span<std::uint64_t> seen);

  // Pages pending; approximate while others take.
  [[nodiscard]] std::uint64_t remaining() const { return pending_.count(); }
  // Time spent in clears since the start, all threads together.
  [[nodiscard]] std::chrono::nanoseconds clear_time() const {
    return std::chrono::nanoseconds(clear_ns_.load(std::memory_order_relaxed));
  }
  [[nodiscard]] std::uint64_t pages() const { return pending_.pages(); }

 private:
  // Clears what is pending of a block, once between two harvests.
  [[nodiscard]] Result<> clear_block(std::uint64_t block) VMM_EXCLUDES(log_mutex_);
  [[nodiscard]] Result<> clear(PageRange range, std::span<const std::uint64_t> bits)
      VMM_REQUIRES(log_mutex_);

  GuestMemory& memory_;
  // The kernel takes one request per VM at a time anyway.
  Mutex log_mutex_;
  DirtyLog& log_ VMM_GUARDED_BY(log_mutex_);
  std::vector<bool> cleared_ VMM_GUARDED_BY(log_mutex_);  // blocks since the last harvest
  bool on_ = false;
  DirtyBitmap pending_;
  DirtyBitmap put_back_;
  std::vector<std::uint64_t> harvested_;
  std::atomic<std::uint64_t> next_chunk_ = 0;
  std::atomic<std::int64_t> clear_ns_ = 0;
};

}  // namespace vmm
