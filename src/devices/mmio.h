#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

namespace vmm {

// A device whose registers are in the guest's address space. It does not know its address: offsets
// count from its start. Called by any vCPU thread, by several at once; the device locks itself.
// data holds 1, 2, 4 or 8 bytes, little-endian, and lies within the device's window; any offset,
// aligned or not, may come from the guest and none may do harm.
class MmioDevice {
 public:
  virtual ~MmioDevice() = default;

  // Fills all of data.
  virtual void mmio_read(std::uint64_t offset, std::span<std::byte> data) = 0;
  virtual void mmio_write(std::uint64_t offset, std::span<const std::byte> data) = 0;
};

// True for an access that a bank of 32-bit registers answers: at a multiple of 4, of 1, 2 or 4
// bytes. (PrimeCells hang on a 32-bit bus without byte lanes: a narrow access is one of the whole
// register. What else comes reads as zero and is ignored when written.)
[[nodiscard]] constexpr bool is_register32_access(std::uint64_t offset, std::size_t size) {
  return offset % 4 == 0 && (size == 1 || size == 2 || size == 4);
}

// Stores a register's value in data: truncated where data is narrower, zero-extended where wider.
void store_register32(std::span<std::byte> data, std::uint32_t value);

// The value written by data (1, 2 or 4 bytes), zero-extended.
[[nodiscard]] std::uint32_t load_register32(std::span<const std::byte> data);

// Identification registers of a PrimeCell: eight bytes at 0xFE0, 0xFE4 ... 0xFFC, one a register.
inline constexpr std::uint64_t kPrimeCellWindow = 0x1000;
[[nodiscard]] std::optional<std::uint32_t> primecell_id(
    std::uint64_t offset, std::span<const std::uint8_t, 4> peripheral_id);

}  // namespace vmm
