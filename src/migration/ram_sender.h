#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <optional>
#include <thread>
#include <vector>

#include "base/result.h"
#include "base/thread_annotations.h"
#include "memory/dirty_tracker.h"
#include "memory/guest_memory.h"
#include "memory/pagemap.h"
#include "migration/channel.h"
#include "migration/ram_record.h"
#include "migration/rate_limiter.h"

namespace vmm::migration {

// What a round did. Pages are of kPageSize.
struct RoundCounters {
  std::uint64_t pages = 0;           // sent with their contents
  std::uint64_t zero_pages = 0;      // found to be zero: told, or in the first round left out
  std::uint64_t hole_pages = 0;      // written before and given back since: told
  std::uint64_t skipped_pages = 0;   // never touched, in the first round: neither read nor told
  std::uint64_t bytes = 0;           // on the data channels, headers included
  std::chrono::nanoseconds wall{0};  // so far, while it is under way
};

// Sends guest memory over data channels, a thread each, straight from where it lies. The guest may
// run meanwhile. Chunks come from a DirtyTracker; per chunk the order is clear, pagemap, read.
//
// Rounds are sent one at a time by one thread; the other functions may be called from any. The
// first error ends all sending for good: pages that were taken and not written are put back into
// the tracker, and every later call gives that error. Memory, tracker and pagemap outlive the
// sender.
class RamSender {
 public:
  // At least one channel.
  RamSender(const GuestMemory& memory, DirtyTracker& tracker, const Pagemap& pagemap,
            std::vector<std::unique_ptr<Channel>> channels);
  RamSender(const RamSender&) = delete;
  RamSender& operator=(const RamSender&) = delete;
  ~RamSender();

  // Sends what the tracker has pending, and the end of the round on every channel. Returns when all
  // of it is handed to the host's network stack. In the first round the other side's memory is
  // fresh, so that what is untouched or zero is not mentioned.
  [[nodiscard]] Result<RoundCounters> send_round(std::uint32_t round, bool first);
  // The control run of benchmarks: sends memory as in a first round, over and over, without asking
  // or clearing any log, until `bytes` of contents have gone out. Error where memory has nothing to
  // send.
  [[nodiscard]] Result<RoundCounters> send_unlogged(std::uint32_t round, std::uint64_t bytes);

  // The round under way so far, or the last one.
  [[nodiscard]] RoundCounters progress() const;
  // Bytes a second over all channels; 0, as at the start, is no limit.
  void set_rate(std::uint64_t bytes_per_second) { limiter_.set_rate(bytes_per_second); }
  // Ends sending: a round under way, and every later one, fails.
  void interrupt();

 private:
  struct Job {
    std::uint32_t round = 0;
    bool elide = false;  // the other side's memory is fresh
    // Pages come from all of memory rather than the tracker, until so many bytes of contents.
    std::optional<std::uint64_t> unlogged_bytes;
  };
  struct Counters {
    std::atomic<std::uint64_t> pages = 0;
    std::atomic<std::uint64_t> zero_pages = 0;
    std::atomic<std::uint64_t> hole_pages = 0;
    std::atomic<std::uint64_t> skipped_pages = 0;
    std::atomic<std::uint64_t> bytes = 0;
    std::atomic<std::chrono::steady_clock::time_point> begin{};  // of a round under way
    std::atomic<std::chrono::nanoseconds> wall{};                // of the last one
  };

  [[nodiscard]] Result<RoundCounters> run(Job job) VMM_EXCLUDES(mutex_);
  void work(Channel& channel) VMM_EXCLUDES(mutex_);
  [[nodiscard]] Result<> send_chunks(Channel& channel, RecordBatch& batch, const Job& job);
  [[nodiscard]] Result<std::optional<DirtyChunk>> next_chunk(const Job& job);
  [[nodiscard]] Result<std::optional<DirtyChunk>> next_unlogged_chunk(std::uint64_t until_bytes);
  [[nodiscard]] Result<> add_records(RecordBatch& batch, const DirtyChunk& chunk, bool elide);
  void add_pages(RecordBatch& batch, PageRange range, bool elide);
  [[nodiscard]] Result<> flush(Channel& channel, RecordBatch& batch);
  void fail_all(Error error) VMM_EXCLUDES(mutex_);

  const std::span<const std::byte> memory_;
  DirtyTracker& tracker_;
  const Pagemap& pagemap_;
  RateLimiter limiter_;
  Counters counters_;
  std::atomic<std::uint64_t> unlogged_chunk_ = 0;
  // Bytes found to be sent when the last few passes without a log began.
  std::atomic<std::uint64_t> unlogged_pass_bytes_ = 0;

  mutable Mutex mutex_;
  std::condition_variable_any changed_;
  Job job_ VMM_GUARDED_BY(mutex_);
  std::uint64_t jobs_ VMM_GUARDED_BY(mutex_) = 0;
  std::size_t busy_ VMM_GUARDED_BY(mutex_) = 0;
  bool quit_ VMM_GUARDED_BY(mutex_) = false;
  std::optional<Error> error_ VMM_GUARDED_BY(mutex_);
  std::atomic<bool> failed_ = false;

  const std::vector<std::unique_ptr<Channel>> channels_;
  std::vector<std::thread> threads_;
};

}  // namespace vmm::migration
