#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/fd.h"
#include "base/result.h"

namespace vmm {

// Which pages of this process have something behind them, told by /proc/self/pagemap: nothing is
// read or faulted in. Threads: any number at once.
class Pagemap {
 public:
  // Error (kHost) where the file cannot be opened, or the host's pages are not of kPageSize.
  [[nodiscard]] static Result<Pagemap> open();

  // Writes one bit per page of `memory`, which is whole pages: 1 where the page is present or
  // swapped out, also as part of a huge page, 0 where it would be read as fresh zeros. The words of
  // `bits`, dirty_words() of the pages, are overwritten; bits beyond the last page are 0. A page
  // that another thread touches for the first time meanwhile may be reported either way.
  [[nodiscard]] Result<> backed(std::span<const std::byte> memory,
                                std::span<std::uint64_t> bits) const;

 private:
  explicit Pagemap(Fd fd) : fd_(std::move(fd)) {}

  Fd fd_;
};

}  // namespace vmm
