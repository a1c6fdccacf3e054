#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

namespace vmm::workload {

constexpr std::size_t kPageBytes = 4096;
constexpr std::size_t kWordsPerPage = kPageBytes / sizeof(std::uint64_t);

// What the pages hold besides the stamp in their first 8 bytes.
enum class Fill {
  kZero,     // nothing is written: never-touched bytes stay zero
  kPattern,  // pseudo-random words made from page and position, so that no two pages are alike
};

// A page that does not hold what it must.
struct Mismatch {
  std::uint64_t page;  // index over the whole working set
  std::size_t word;    // 8-byte word within the page; 0 is the stamp
  std::uint64_t expected;
  std::uint64_t found;
};

// The stamp of page `page` after pass `pass`: 0 for pass 0 (never written), else both numbers, so
// that a page in the wrong place is found as well as an old one.
[[nodiscard]] std::uint64_t stamp(std::uint64_t pass, std::uint64_t page);

// Word `word` of page `page` under Fill::kPattern.
[[nodiscard]] std::uint64_t pattern_word(std::uint64_t page, std::size_t word);

// Different pages that `writes` writes in a row touch in a slice of `pages`: they go over it in
// order, so that none is written again before all are.
[[nodiscard]] constexpr std::uint64_t unique_pages(std::uint64_t writes, std::uint64_t pages) {
  return writes < pages ? writes : pages;
}

// The part of the working set that one thread writes: one 8-byte store per 4 KiB page, pages in
// order, so that one pass dirties each page once. All that the memory must hold follows from the
// count of writes. Not thread-safe: used by its thread only.
class PageSlice {
 public:
  // `words`: whole pages, page aligned and zero; `first_page`: index of the first one in the whole
  // working set. The memory must outlive the slice.
  PageSlice(std::span<std::uint64_t> words, std::uint64_t first_page, Fill fill);

  // Writes the fill pattern into every page, stamps excepted. Needed once before the first verify()
  // under Fill::kPattern; does nothing under Fill::kZero.
  void prefill();

  // Stores into the next `count` pages.
  void write(std::uint64_t count);

  // Compares every word of every page with what `writes()` says it must be: pages before the
  // cursor carry the current pass, the others the one before. Returns the first difference.
  [[nodiscard]] std::optional<Mismatch> verify() const;

  [[nodiscard]] std::uint64_t pages() const { return words_.size() / kWordsPerPage; }
  [[nodiscard]] std::uint64_t writes() const { return writes_; }
  // Passes completed over this slice.
  [[nodiscard]] std::uint64_t passes() const { return writes_ / pages(); }

 private:
  std::span<std::uint64_t> words_;
  std::uint64_t first_page_;
  Fill fill_;
  std::uint64_t writes_ = 0;
};

}  // namespace vmm::workload
