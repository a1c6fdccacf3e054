#include "migration/ram_sender.h"

#include <algorithm>
#include <bit>
#include <csignal>
#include <cstdlib>
#include <utility>

#include "migration/tcp_socket.h"
#include "migration/zero_page.h"

namespace vmm::migration {
namespace {

using Clock = std::chrono::steady_clock;
using Bits = std::array<std::uint64_t, kChunkPages / kPagesPerWord>;

std::uint64_t count(const Bits& bits) {
  std::uint64_t set = 0;
  for (const auto word : bits) set += static_cast<std::uint64_t>(std::popcount(word));
  return set;
}

// As write_live() wants it. A signal that is pending goes with the thread.
void block_sigpipe() {
  sigset_t signals;
  ::sigemptyset(&signals);
  ::sigaddset(&signals, SIGPIPE);
  ::pthread_sigmask(SIG_BLOCK, &signals, nullptr);
}

}  // namespace

RamSender::RamSender(const GuestMemory& memory, DirtyTracker& tracker, const Pagemap& pagemap,
                     std::vector<std::unique_ptr<Channel>> channels)
    : memory_(memory.regions()[0].bytes),
      tracker_(tracker),
      pagemap_(pagemap),
      channels_(std::move(channels)) {
  if (channels_.empty()) std::abort();
  for (const auto& channel : channels_) {
    threads_.emplace_back([this, &channel = *channel] { work(channel); });
  }
}

RamSender::~RamSender() {
  interrupt();
  {
    const MutexLock lock(mutex_);
    quit_ = true;
    changed_.notify_all();
  }
  for (auto& thread : threads_) thread.join();
}

Result<RoundCounters> RamSender::send_round(std::uint32_t round, bool first) {
  return run({.round = round, .elide = first, .unlogged_bytes = std::nullopt});
}

Result<RoundCounters> RamSender::send_unlogged(std::uint32_t round, std::uint64_t bytes) {
  unlogged_chunk_ = 0;
  unlogged_pass_bytes_ = 0;
  return run({.round = round, .elide = true, .unlogged_bytes = bytes});
}

RoundCounters RamSender::progress() const {
  const auto begin = counters_.begin.load();
  return {.pages = counters_.pages,
          .zero_pages = counters_.zero_pages,
          .hole_pages = counters_.hole_pages,
          .skipped_pages = counters_.skipped_pages,
          .bytes = counters_.bytes,
          .wall = begin == Clock::time_point() ? counters_.wall.load() : Clock::now() - begin};
}

void RamSender::interrupt() {
  fail_all(make_error(ErrorKind::kMigration, "sending guest memory was interrupted"));
}

Result<RoundCounters> RamSender::run(Job job) {
  counters_.pages = 0;
  counters_.zero_pages = 0;
  counters_.hole_pages = 0;
  counters_.skipped_pages = 0;
  counters_.bytes = 0;
  const MutexLock lock(mutex_);
  if (error_) return fail(*error_);
  const auto begin = Clock::now();
  counters_.begin = begin;
  job_ = job;
  ++jobs_;
  busy_ = channels_.size();
  changed_.notify_all();
  while (busy_ > 0) changed_.wait(mutex_);
  counters_.wall = Clock::now() - begin;
  counters_.begin = Clock::time_point();
  if (error_) return fail(*error_);
  return progress();
}

void RamSender::work(Channel& channel) {
  block_sigpipe();
  RecordBatch batch;
  std::uint64_t done = 0;
  for (;;) {
    Job job;
    {
      const MutexLock lock(mutex_);
      while (!quit_ && jobs_ == done) changed_.wait(mutex_);
      if (quit_) return;
      done = jobs_;
      job = job_;
    }
    if (auto sent = send_chunks(channel, batch, job); !sent) {
      for (const auto& chunk : batch.chunks()) tracker_.put_back(chunk);
      batch.clear();
      fail_all(std::move(sent).error());
    }
    const MutexLock lock(mutex_);
    if (--busy_ == 0) changed_.notify_all();
  }
}

Result<> RamSender::send_chunks(Channel& channel, RecordBatch& batch, const Job& job) {
  for (;;) {
    // What made another thread fail is what is reported.
    if (failed_) return fail(ErrorKind::kMigration, "another channel failed");
    TRY(const auto chunk, next_chunk(job));
    if (!chunk) break;
    if (!job.unlogged_bytes) batch.add_chunk(*chunk);
    TRY(add_records(batch, *chunk, job.elide));
    if (batch.full()) {
      TRY(flush(channel, batch));
    }
  }
  if (!batch.empty()) {
    TRY(flush(channel, batch));
  }
  batch.clear();
  batch.add({.type = RecordType::kRoundEnd, .pages = {}, .round = job.round});
  return flush(channel, batch);
}

Result<std::optional<DirtyChunk>> RamSender::next_chunk(const Job& job) {
  return job.unlogged_bytes ? next_unlogged_chunk(*job.unlogged_bytes) : tracker_.take();
}

Result<std::optional<DirtyChunk>> RamSender::next_unlogged_chunk(std::uint64_t until_bytes) {
  const std::uint64_t sent = counters_.pages * kPageSize;
  if (sent >= until_bytes) return std::nullopt;
  const std::uint64_t pages = tracker_.pages();
  const std::uint64_t chunks = (pages + kChunkPages - 1) / kChunkPages;
  const std::uint64_t number = unlogged_chunk_.fetch_add(1, std::memory_order_relaxed);
  // Every few passes something must have been found, or nothing ever will.
  constexpr std::uint64_t kPasses = 4;
  if (number > 0 && number % (kPasses * chunks) == 0 &&
      unlogged_pass_bytes_.exchange(sent) == sent) {
    return fail(ErrorKind::kMigration, "guest memory has nothing to send");
  }
  DirtyChunk chunk{.first = number % chunks * kChunkPages};
  const std::uint64_t count = std::min(kChunkPages, pages - chunk.first);
  for (std::uint64_t page = 0; page < count; page += kPagesPerWord) {
    const std::uint64_t bits = std::min(kPagesPerWord, count - page);
    chunk.bits[page / kPagesPerWord] = ~std::uint64_t{0} >> (kPagesPerWord - bits);
  }
  return chunk;
}

// The tracker has cleared the chunk in the log: a page first touched from here on is found by the
// next harvest, whatever the pagemap says about it.
Result<> RamSender::add_records(RecordBatch& batch, const DirtyChunk& chunk, bool elide) {
  const std::uint64_t in_chunk = std::min(kChunkPages, tracker_.pages() - chunk.first);
  Bits present{};
  TRY(pagemap_.backed(memory_.subspan(chunk.first * kPageSize, in_chunk * kPageSize),
                      std::span(present).first(dirty_words(in_chunk))));
  Bits holes{};
  for (std::size_t i = 0; i < present.size(); ++i) {
    holes[i] = chunk.bits[i] & ~present[i];
    present[i] &= chunk.bits[i];
  }
  (elide ? counters_.skipped_pages : counters_.hole_pages) += count(holes);
  if (!elide) {
    for_each_dirty_range(holes, kChunkPages, [&](PageRange range) {
      batch.add({RecordType::kHole, {chunk.first + range.first, range.count}});
    });
  }
  for_each_dirty_range(present, kChunkPages, [&](PageRange range) {
    add_pages(batch, {chunk.first + range.first, range.count}, elide);
  });
  return success();
}

// Pages that have memory, in runs of those that are zero and those that are not.
void RamSender::add_pages(RecordBatch& batch, PageRange range, bool elide) {
  const auto is_zero = [&](std::uint64_t page) {
    return is_zero_page(memory_.subspan(page * kPageSize).first<kPageSize>());
  };
  const std::uint64_t end = range.first + range.count;
  bool zero = is_zero(range.first);
  while (range.first < end) {
    std::uint64_t next = range.first + 1;
    bool next_zero = zero;
    while (next < end && (next_zero = is_zero(next)) == zero) ++next;
    const PageRange run{range.first, next - range.first};
    if (!zero) {
      batch.add({RecordType::kPages, run},
                memory_.subspan(run.first * kPageSize, run.count * kPageSize));
    } else if (!elide) {
      batch.add({RecordType::kZero, run});
    }
    (zero ? counters_.zero_pages : counters_.pages) += run.count;
    range.first = next;
    zero = next_zero;
  }
}

Result<> RamSender::flush(Channel& channel, RecordBatch& batch) {
  IovCursor rest;
  rest.assign(batch.parts());
  std::vector<iovec> piece;
  while (!rest.done()) {
    const std::uint64_t bytes = limiter_.acquire(rest.bytes());
    if (bytes == 0) return fail(ErrorKind::kMigration, "sending guest memory was interrupted");
    rest.first(bytes, piece);
    TRY(channel.write_live(piece));
    rest.advance(bytes);
    counters_.bytes += bytes;
  }
  batch.clear();
  return success();
}

void RamSender::fail_all(Error error) {
  {
    const MutexLock lock(mutex_);
    if (error_) return;
    error_ = std::move(error);
    failed_ = true;
  }
  limiter_.interrupt();
  for (const auto& channel : channels_) channel->interrupt();
}

}  // namespace vmm::migration
