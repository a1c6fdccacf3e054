#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>

namespace vmm {

// Granule of dirty tracking, in bytes.
inline constexpr std::uint64_t kPageSize = 4096;
inline constexpr unsigned kPageShift = 12;
inline constexpr std::uint64_t kPagesPerWord = 64;

// Number of 64-bit words that hold one bit for each of `pages` pages.
[[nodiscard]] constexpr std::size_t dirty_words(std::uint64_t pages) {
  return static_cast<std::size_t>(pages / kPagesPerWord + (pages % kPagesPerWord != 0 ? 1 : 0));
}

// Consecutive pages, numbered from the start of the region the bitmap is about.
struct PageRange {
  std::uint64_t first = 0;
  std::uint64_t count = 0;
  [[nodiscard]] bool operator==(const PageRange&) const = default;
};

// The first run of consecutive set bits at or behind `from`, among the first `pages` bits of a
// plain bitmap (bit n of word w is page 64 w + n, as in KVM's dirty log). Bits beyond `pages` are
// not looked at; words must hold at least dirty_words(pages) words. Nothing where no bit is set.
[[nodiscard]] std::optional<PageRange> next_dirty_range(std::span<const std::uint64_t> words,
                                                        std::uint64_t pages, std::uint64_t from);

// Calls visit(PageRange) for each maximal run of set bits, in order.
template <typename Visit>
void for_each_dirty_range(std::span<const std::uint64_t> words, std::uint64_t pages,
                          Visit&& visit) {
  std::uint64_t from = 0;
  while (const auto range = next_dirty_range(words, pages, from)) {
    visit(*range);
    from = range->first + range->count;
  }
}

// One bit per 4 KiB page, set and harvested by any threads at once. Who writes to a page sets its
// bit after the write: a harvest that comes in between then only sends the page once more, while
// the other order would lose the write. Ranges beyond pages() are a bug of the caller and abort.
class DirtyBitmap {
 public:
  DirtyBitmap() = default;
  // All bits clear.
  explicit DirtyBitmap(std::uint64_t pages);

  [[nodiscard]] std::uint64_t pages() const { return pages_; }
  [[nodiscard]] std::size_t words() const { return dirty_words(pages_); }

  void set(std::uint64_t page) { set_range({page, 1}); }
  void set_range(PageRange range);
  [[nodiscard]] bool test(std::uint64_t page) const;
  // 64 bits at once, which stay as they are.
  [[nodiscard]] std::uint64_t word(std::size_t index) const;

  // Sets the bits of a plain word; those beyond pages() are dropped.
  void or_word(std::size_t index, std::uint64_t bits);
  // Sets the bits of a plain bitmap of exactly words() words, from KVM or of a send that failed.
  void merge(std::span<const std::uint64_t> bits);

  // Takes a word out, leaving zero.
  [[nodiscard]] std::uint64_t exchange_word(std::size_t index);
  // Moves all bits out: ORs them into a plain bitmap of exactly words() words and clears them here.
  void harvest(std::span<std::uint64_t> into);

  void clear();
  // Set bits; exact only while nobody sets or harvests.
  [[nodiscard]] std::uint64_t count() const;

 private:
  [[nodiscard]] std::uint64_t valid_bits(std::size_t index) const;

  std::uint64_t pages_ = 0;
  std::unique_ptr<std::atomic<std::uint64_t>[]> words_;
};

}  // namespace vmm
