#pragma once

#include <cstddef>
#include <span>

#include "memory/dirty_bitmap.h"

namespace vmm::migration {

// Whether a page, aligned to 8 bytes, reads as zero throughout; looks no further than the first
// piece that does not. The guest may write to it meanwhile: the answer is of some moment in
// between.
[[nodiscard]] bool is_zero_page(std::span<const std::byte, kPageSize> page);

}  // namespace vmm::migration
