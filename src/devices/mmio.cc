#include "devices/mmio.h"

#include <algorithm>
#include <cstring>

namespace vmm {
namespace {

constexpr std::uint64_t kIdRegisters = 0xfe0;
// PrimeCell identification, the same for all of them.
constexpr std::uint8_t kPrimeCellId[4] = {0x0d, 0xf0, 0x05, 0xb1};

}  // namespace

void store_register32(std::span<std::byte> data, std::uint32_t value) {
  std::ranges::fill(data, std::byte{0});
  std::memcpy(data.data(), &value, std::min(data.size(), sizeof value));
}

std::uint32_t load_register32(std::span<const std::byte> data) {
  std::uint32_t value = 0;
  std::memcpy(&value, data.data(), std::min(data.size(), sizeof value));
  return value;
}

std::optional<std::uint32_t> primecell_id(std::uint64_t offset,
                                          std::span<const std::uint8_t, 4> peripheral_id) {
  if (offset < kIdRegisters || offset >= kPrimeCellWindow || offset % 4 != 0) return std::nullopt;
  const auto index = static_cast<std::size_t>((offset - kIdRegisters) / 4);
  return index < 4 ? peripheral_id[index] : kPrimeCellId[index - 4];
}

}  // namespace vmm
