#include "devices/mmio_bus.h"

#include <algorithm>
#include <limits>

namespace vmm {

Result<> MmioBus::add(std::uint64_t base, std::uint64_t size, MmioDevice& device) {
  if (size == 0 || size - 1 > std::numeric_limits<std::uint64_t>::max() - base) {
    return fail(ErrorKind::kFailed, "a device cannot have {:#x} bytes at address {:#x}", size,
                base);
  }
  const std::uint64_t last = base + (size - 1);
  // The first window that ends at or behind base is the only one that may be in the way.
  const auto next = std::ranges::lower_bound(windows_, base, {}, &Window::last);
  if (next != windows_.end() && next->first <= last) {
    return fail(ErrorKind::kFailed, "device addresses {:#x}-{:#x} overlap {:#x}-{:#x}", base, last,
                next->first, next->last);
  }
  windows_.insert(next, Window{base, last, &device});
  return success();
}

MmioBus::Target MmioBus::find(std::uint64_t address, std::uint64_t size) const {
  const auto window = std::ranges::lower_bound(windows_, address, {}, &Window::last);
  const bool found = size != 0 && window != windows_.end() && window->first <= address &&
                     size - 1 <= window->last - address;
  return found ? Target{window->device, address - window->first} : Target{nullptr, 0};
}

bool MmioBus::read(std::uint64_t address, std::span<std::byte> data) const {
  const Target target = find(address, data.size());
  if (target.device == nullptr) return false;
  target.device->mmio_read(target.offset, data);
  return true;
}

bool MmioBus::write(std::uint64_t address, std::span<const std::byte> data) const {
  const Target target = find(address, data.size());
  if (target.device == nullptr) return false;
  target.device->mmio_write(target.offset, data);
  return true;
}

}  // namespace vmm
