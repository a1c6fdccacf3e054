#include "memory/dirty_bitmap.h"

#include <bit>
#include <cstdlib>

namespace vmm {
namespace {

constexpr std::uint64_t kAllBits = ~std::uint64_t{0};

// Bits [first, first + count) of a word; count is 1 to 64 - first.
constexpr std::uint64_t bit_range(std::uint64_t first, std::uint64_t count) {
  return (kAllBits >> (kPagesPerWord - count)) << first;
}

}  // namespace

std::optional<PageRange> next_dirty_range(std::span<const std::uint64_t> words, std::uint64_t pages,
                                          std::uint64_t from) {
  if (words.size() < dirty_words(pages)) std::abort();
  if (from >= pages) return std::nullopt;
  const std::size_t end = dirty_words(pages);
  std::size_t index = static_cast<std::size_t>(from / kPagesPerWord);

  // The first set bit at or behind `from`.
  std::uint64_t word = words[index] & (kAllBits << from % kPagesPerWord);
  while (word == 0) {
    if (++index == end) return std::nullopt;
    word = words[index];
  }
  auto bit = static_cast<std::uint64_t>(std::countr_zero(word));
  const std::uint64_t first = index * kPagesPerWord + bit;
  if (first >= pages) return std::nullopt;

  // The ones that follow it, through as many words as they fill to the end.
  std::uint64_t count = 0;
  for (;;) {
    const auto ones = static_cast<std::uint64_t>(std::countr_one(word >> bit));
    count += ones;
    if (bit + ones < kPagesPerWord || ++index == end) break;
    word = words[index];
    bit = 0;
  }
  return PageRange{first, count < pages - first ? count : pages - first};
}

DirtyBitmap::DirtyBitmap(std::uint64_t pages)
    : pages_(pages), words_(std::make_unique<std::atomic<std::uint64_t>[]>(dirty_words(pages))) {}

std::uint64_t DirtyBitmap::valid_bits(std::size_t index) const {
  const std::uint64_t first = index * kPagesPerWord;
  return pages_ - first >= kPagesPerWord ? kAllBits : bit_range(0, pages_ - first);
}

void DirtyBitmap::set_range(PageRange range) {
  if (range.first > pages_ || range.count > pages_ - range.first) std::abort();
  // Always an atomic write, even where the bit is set already: a plain look could come before the
  // write to the page is seen by the one that harvests, and that write would then be lost.
  while (range.count != 0) {
    const std::uint64_t bit = range.first % kPagesPerWord;
    const std::uint64_t room = kPagesPerWord - bit;
    const std::uint64_t count = range.count < room ? range.count : room;
    words_[range.first / kPagesPerWord].fetch_or(bit_range(bit, count), std::memory_order_release);
    range.first += count;
    range.count -= count;
  }
}

bool DirtyBitmap::test(std::uint64_t page) const {
  if (page >= pages_) std::abort();
  const auto word = words_[page / kPagesPerWord].load(std::memory_order_acquire);
  return (word >> page % kPagesPerWord & 1) != 0;
}

std::uint64_t DirtyBitmap::word(std::size_t index) const {
  if (index >= words()) std::abort();
  return words_[index].load(std::memory_order_acquire);
}

void DirtyBitmap::or_word(std::size_t index, std::uint64_t bits) {
  if (index >= words()) std::abort();
  bits &= valid_bits(index);
  if (bits != 0) words_[index].fetch_or(bits, std::memory_order_release);
}

void DirtyBitmap::merge(std::span<const std::uint64_t> bits) {
  if (bits.size() != words()) std::abort();
  for (std::size_t i = 0; i < bits.size(); ++i) {
    if (bits[i] != 0) or_word(i, bits[i]);
  }
}

std::uint64_t DirtyBitmap::exchange_word(std::size_t index) {
  if (index >= words()) std::abort();
  // A bit set behind this look stays for the next harvest.
  if (words_[index].load(std::memory_order_relaxed) == 0) return 0;
  return words_[index].exchange(0, std::memory_order_acquire);
}

void DirtyBitmap::harvest(std::span<std::uint64_t> into) {
  if (into.size() != words()) std::abort();
  for (std::size_t i = 0; i < into.size(); ++i) into[i] |= exchange_word(i);
}

void DirtyBitmap::clear() {
  for (std::size_t i = 0; i < words(); ++i) words_[i].store(0, std::memory_order_relaxed);
}

std::uint64_t DirtyBitmap::count() const {
  std::uint64_t set_bits = 0;
  for (std::size_t i = 0; i < words(); ++i) {
    const auto word = words_[i].load(std::memory_order_relaxed);
    set_bits += static_cast<std::uint64_t>(std::popcount(word));
  }
  return set_bits;
}

}  // namespace vmm
