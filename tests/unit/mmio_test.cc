#include "devices/mmio.h"

#include <gtest/gtest.h>

#include <vector>

namespace vmm {
namespace {

std::vector<std::byte> bytes(std::initializer_list<int> values) {
  std::vector<std::byte> result;
  for (const int value : values) result.push_back(static_cast<std::byte>(value));
  return result;
}

TEST(MmioTest, StoresRegistersLittleEndianInEveryWidth) {
  struct Case {
    std::size_t size;
    std::vector<std::byte> expected;
  };
  const Case cases[] = {
      {1, bytes({0x44})},
      {2, bytes({0x44, 0x33})},
      {4, bytes({0x44, 0x33, 0x22, 0x11})},
      {8, bytes({0x44, 0x33, 0x22, 0x11, 0, 0, 0, 0})},
  };
  for (const auto& [size, expected] : cases) {
    std::vector<std::byte> data(size, std::byte{0xff});
    store_register32(data, 0x11223344);
    EXPECT_EQ(data, expected) << size;
  }
}

TEST(MmioTest, LoadsRegistersLittleEndianAndZeroExtended) {
  EXPECT_EQ(load_register32(bytes({0x99})), 0x99u);
  EXPECT_EQ(load_register32(bytes({0x99, 0x88})), 0x8899u);
  EXPECT_EQ(load_register32(bytes({0x99, 0x88, 0x77, 0x66})), 0x66778899u);
}

TEST(MmioTest, RegistersAnswerAlignedAccessesUpToTheirWidth) {
  for (std::uint64_t offset = 0; offset < 8; ++offset) {
    for (const std::size_t size : {0u, 1u, 2u, 3u, 4u, 5u, 8u, 16u}) {
      const bool expected = offset % 4 == 0 && (size == 1 || size == 2 || size == 4);
      EXPECT_EQ(is_register32_access(offset, size), expected) << offset << " size " << size;
    }
  }
}

TEST(MmioTest, PrimeCellsIdentifyThemselvesAtTheEndOfTheirWindow) {
  constexpr std::uint8_t kId[4] = {1, 2, 3, 4};
  constexpr std::uint32_t kExpected[8] = {1, 2, 3, 4, 0x0d, 0xf0, 0x05, 0xb1};
  for (std::uint64_t i = 0; i < 8; ++i) EXPECT_EQ(primecell_id(0xfe0 + 4 * i, kId), kExpected[i]);
  for (const std::uint64_t offset : {0x0ull, 0xfdcull, 0xfe1ull, 0xffdull, 0x1000ull, ~0ull}) {
    EXPECT_EQ(primecell_id(offset, kId), std::nullopt) << offset;
  }
}

}  // namespace
}  // namespace vmm
