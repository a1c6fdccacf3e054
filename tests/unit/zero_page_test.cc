#include "migration/zero_page.h"

#include <gtest/gtest.h>

#include <array>

namespace vmm::migration {
namespace {

TEST(ZeroPageTest, SeesAnySingleByteThatIsNotZero) {
  alignas(8) std::array<std::byte, kPageSize> page{};
  EXPECT_TRUE(is_zero_page(page));
  for (std::size_t at = 0; at < page.size(); ++at) {
    page[at] = std::byte{0x80};
    EXPECT_FALSE(is_zero_page(page)) << at;
    page[at] = std::byte{0};
  }
}

TEST(ZeroPageTest, LooksAtThePageAlone) {
  alignas(8) std::array<std::byte, 3 * kPageSize> pages{};
  pages[kPageSize - 1] = std::byte{1};
  pages[2 * kPageSize] = std::byte{1};
  EXPECT_TRUE(is_zero_page(std::span(pages).subspan<kPageSize, kPageSize>()));
}

}  // namespace
}  // namespace vmm::migration
