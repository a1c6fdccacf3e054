#include "memory/dirty_tracker.h"

#include <algorithm>
#include <cstdlib>

#include "base/log.h"

namespace vmm {
namespace {

// One clear keeps KVM's MMU lock, which faulting vCPUs want: 256 MiB at a time.
constexpr std::uint64_t kClearPages = 65536;
static_assert(kClearPages % kPagesPerWord == 0);

// What is cleared at once while sending, 16 MiB. More would be found dirty again before it is sent;
// with less the guest spends its time on TLB misses.
constexpr std::uint64_t kBlockPages = 4096;
static_assert(kBlockPages % DirtyChunk::kPages == 0);

}  // namespace

DirtyTracker::DirtyTracker(DirtyLog& log, GuestMemory& memory)
    : memory_(memory),
      log_(log),
      cleared_((memory.size() / kPageSize + kBlockPages - 1) / kBlockPages),
      pending_(memory.size() / kPageSize),
      put_back_(memory.size() / kPageSize),
      harvested_(pending_.words()) {
  if (log.pages() != pending_.pages()) std::abort();
}

DirtyTracker::~DirtyTracker() {
  if (auto stopped = stop(); !stopped) {
    log(LogLevel::kWarning, "{}", stopped.error().message());
  }
}

Result<> DirtyTracker::start(DirtyLogMode mode) {
  {
    const MutexLock lock(log_mutex_);
    TRY(log_.start(mode));
    cleared_.assign(cleared_.size(), false);
  }
  on_ = true;
  clear_ns_.store(0, std::memory_order_relaxed);
  next_chunk_.store(0, std::memory_order_relaxed);
  put_back_.clear();
  // What devices write behind this line is found by the next harvest; all before is pending.
  memory_.device_dirty().clear();
  pending_.set_range({0, pending_.pages()});
  return success();
}

Result<> DirtyTracker::set_mode(DirtyLogMode mode) {
  const MutexLock lock(log_mutex_);
  return log_.set_mode(mode);
}

Result<> DirtyTracker::stop() {
  if (!on_) return success();
  on_ = false;
  const MutexLock lock(log_mutex_);
  return log_.stop();
}

Result<std::uint64_t> DirtyTracker::harvest() {
  {
    const MutexLock lock(log_mutex_);
    TRY(log_.get(harvested_));
    cleared_.assign(cleared_.size(), false);
  }
  memory_.device_dirty().harvest(harvested_);
  put_back_.harvest(harvested_);
  pending_.merge(harvested_);
  next_chunk_.store(0, std::memory_order_relaxed);
  return pending_.count();
}

Result<std::optional<DirtyChunk>> DirtyTracker::take() {
  const std::uint64_t chunks = (pages() + DirtyChunk::kPages - 1) / DirtyChunk::kPages;
  for (;;) {
    // Looked at before it is counted up: callers who come again at the end must not wrap it.
    if (next_chunk_.load(std::memory_order_relaxed) >= chunks) return std::nullopt;
    const std::uint64_t number = next_chunk_.fetch_add(1, std::memory_order_relaxed);
    if (number >= chunks) return std::nullopt;
    DirtyChunk chunk{.first = number * DirtyChunk::kPages};
    TRY(clear_block(chunk.first / kBlockPages));
    const std::size_t word = chunk.first / kPagesPerWord;
    std::uint64_t any = 0;
    for (std::size_t i = 0; i < chunk.bits.size() && word + i < pending_.words(); ++i) {
      chunk.bits[i] = pending_.exchange_word(word + i);
      any |= chunk.bits[i];
    }
    if (any != 0) return chunk;
  }
}

Result<> DirtyTracker::clear_block(std::uint64_t block) {
  const MutexLock lock(log_mutex_);
  if (cleared_[block]) return success();
  const std::uint64_t first = block * kBlockPages;
  const PageRange range{first, std::min(kBlockPages, pages() - first)};
  std::array<std::uint64_t, kBlockPages / kPagesPerWord> bits{};
  const auto words = std::span(bits).first(dirty_words(range.count));
  std::uint64_t any = 0;
  for (std::size_t i = 0; i < words.size(); ++i) {
    words[i] = pending_.word(first / kPagesPerWord + i);
    any |= words[i];
  }
  if (any != 0) {
    TRY(clear(range, words));
  }
  cleared_[block] = true;
  return success();
}

void DirtyTracker::put_back(const DirtyChunk& chunk) {
  const std::size_t word = chunk.first / kPagesPerWord;
  for (std::size_t i = 0; i < chunk.bits.size(); ++i) {
    if (chunk.bits[i] != 0) put_back_.or_word(word + i, chunk.bits[i]);
  }
}

Result<> DirtyTracker::clear_pending(std::span<std::uint64_t> seen) {
  if (seen.size() != pending_.words()) std::abort();
  const MutexLock lock(log_mutex_);
  std::ranges::fill(harvested_, 0);
  pending_.harvest(harvested_);
  for (std::uint64_t first = 0; first < pages(); first += kClearPages) {
    const PageRange range{first, std::min(kClearPages, pages() - first)};
    const std::size_t word = first / kPagesPerWord;
    const auto bits = std::span(harvested_).subspan(word, dirty_words(range.count));
    if (std::ranges::all_of(bits, [](std::uint64_t part) { return part == 0; })) continue;
    if (auto cleared = clear(range, bits); !cleared) {
      for (std::size_t i = word; i < harvested_.size(); ++i) put_back_.or_word(i, harvested_[i]);
      return cleared;
    }
    for (std::size_t i = 0; i < bits.size(); ++i) seen[word + i] |= bits[i];
  }
  return success();
}

Result<> DirtyTracker::clear(PageRange range, std::span<const std::uint64_t> bits) {
  const auto begin = std::chrono::steady_clock::now();
  auto cleared = log_.clear(range, bits);
  const auto took = std::chrono::steady_clock::now() - begin;
  clear_ns_.fetch_add(std::chrono::nanoseconds(took).count(), std::memory_order_relaxed);
  return cleared;
}

}  // namespace vmm
