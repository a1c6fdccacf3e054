#include "migration/zero_page.h"

#include <cstdint>

namespace vmm::migration {
namespace {

// 16 bytes in one register, on x86-64 and arm64 alike.
using Vector [[gnu::vector_size(16), gnu::aligned(8), gnu::may_alias]] = std::uint64_t;
constexpr std::size_t kBlock = 8;  // vectors between two decisions
static_assert(kPageSize % (kBlock * sizeof(Vector)) == 0);

}  // namespace

// Guest memory changes under the reader by design, which ThreadSanitizer need not report.
__attribute__((no_sanitize("thread"))) bool is_zero_page(
    std::span<const std::byte, kPageSize> page) {
  const auto* at = reinterpret_cast<const Vector*>(page.data());
  const auto* const end = at + kPageSize / sizeof(Vector);
  for (; at != end; at += kBlock) {
    const Vector any = (at[0] | at[1]) | (at[2] | at[3]) | (at[4] | at[5]) | (at[6] | at[7]);
    if ((any[0] | any[1]) != 0) return false;
  }
  return true;
}

}  // namespace vmm::migration
