#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/result.h"
#include "devices/mmio.h"

namespace vmm {

// Which device answers at which guest-physical address. Filled while the machine is built and never
// changed while vCPUs run, so that read() and write() take no lock and may be called by all vCPU
// threads at once.
class MmioBus {
 public:
  // A device found by its address.
  struct Target {
    MmioDevice* device;    // null where there is none
    std::uint64_t offset;  // from the start of the device
  };

  // Gives [base, base + size) to a device, which must outlive the bus. Error when the range is
  // empty, overflows, or overlaps another. Threads: before vCPUs run.
  [[nodiscard]] Result<> add(std::uint64_t base, std::uint64_t size, MmioDevice& device);

  // The device that owns all of [address, address + size).
  [[nodiscard]] Target find(std::uint64_t address, std::uint64_t size) const;

  // Passes an access of 1, 2, 4 or 8 bytes on. False, with data untouched, where no single device
  // owns all of it.
  [[nodiscard]] bool read(std::uint64_t address, std::span<std::byte> data) const;
  [[nodiscard]] bool write(std::uint64_t address, std::span<const std::byte> data) const;

 private:
  struct Window {
    std::uint64_t first;
    std::uint64_t last;  // inclusive, so that a window may end at the top of the address space
    MmioDevice* device;
  };

  std::vector<Window> windows_;  // ascending, disjoint
};

}  // namespace vmm
