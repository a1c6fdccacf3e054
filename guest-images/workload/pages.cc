#include "workload/pages.h"

namespace vmm::workload {

std::uint64_t stamp(std::uint64_t pass, std::uint64_t page) {
  return pass == 0 ? 0 : (pass << 32) | (page & 0xffff'ffff);
}

std::uint64_t pattern_word(std::uint64_t page, std::size_t word) {
  // The finaliser of SplitMix64 over a counter that is unique to the word.
  std::uint64_t z = (page * kWordsPerPage + word + 1) * 0x9e37'79b9'7f4a'7c15;
  z = (z ^ (z >> 30)) * 0xbf58'476d'1ce4'e5b9;
  z = (z ^ (z >> 27)) * 0x94d0'49bb'1331'11eb;
  return z ^ (z >> 31);
}

PageSlice::PageSlice(std::span<std::uint64_t> words, std::uint64_t first_page, Fill fill)
    : words_(words), first_page_(first_page), fill_(fill) {}

void PageSlice::prefill() {
  if (fill_ == Fill::kZero) return;
  for (std::uint64_t page = 0; page < pages(); ++page) {
    for (std::size_t word = 1; word < kWordsPerPage; ++word) {
      words_[page * kWordsPerPage + word] = pattern_word(first_page_ + page, word);
    }
  }
}

void PageSlice::write(std::uint64_t count) {
  std::uint64_t page = writes_ % pages();
  std::uint64_t pass = passes() + 1;
  for (std::uint64_t i = 0; i < count; ++i) {
    // volatile: each store is one access of its own and none is merged, moved or left out.
    *static_cast<volatile std::uint64_t*>(&words_[page * kWordsPerPage]) =
        stamp(pass, first_page_ + page);
    if (++page == pages()) {
      page = 0;
      ++pass;
    }
  }
  writes_ += count;
}

std::optional<Mismatch> PageSlice::verify() const {
  const std::uint64_t cursor = writes_ % pages();
  const std::uint64_t pass = passes() + 1;
  for (std::uint64_t page = 0; page < pages(); ++page) {
    const std::uint64_t number = first_page_ + page;
    const auto* words = static_cast<const volatile std::uint64_t*>(&words_[page * kWordsPerPage]);
    const std::uint64_t expected_stamp = stamp(page < cursor ? pass : pass - 1, number);
    if (const std::uint64_t found = words[0]; found != expected_stamp) {
      return Mismatch{number, 0, expected_stamp, found};
    }
    for (std::size_t word = 1; word < kWordsPerPage; ++word) {
      const std::uint64_t expected = fill_ == Fill::kPattern ? pattern_word(number, word) : 0;
      if (const std::uint64_t found = words[word]; found != expected) {
        return Mismatch{number, word, expected, found};
      }
    }
  }
  return std::nullopt;
}

}  // namespace vmm::workload
