#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <type_traits>

namespace vmm::virtio {

// Reads from a configuration space; what does not lie in it is zero.
template <typename T>
void copy_config(const T& config, std::uint64_t offset, std::span<std::byte> data) {
  static_assert(std::is_trivially_copyable_v<T>);
  std::ranges::fill(data, std::byte{0});
  if (offset >= sizeof config) return;
  const auto size = std::min<std::uint64_t>(data.size(), sizeof config - offset);
  std::memcpy(data.data(), reinterpret_cast<const std::byte*>(&config) + offset, size);
}

}  // namespace vmm::virtio
