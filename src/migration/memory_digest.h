#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>

#include "base/result.h"
#include "memory/guest_memory.h"
#include "memory/pagemap.h"

namespace vmm::migration {

using MemoryDigest = std::array<std::byte, 32>;

// How another thread follows and ends a digest.
struct DigestControl {
  std::atomic<bool> stop = false;
  std::atomic<std::uint64_t> done_bytes = 0;
};

// SHA-256 over the pages of a guest's RAM that are not all zeros, in order, each with its
// guest-physical address (u64, little-endian) before it: what is free costs next to nothing. Pages
// without memory behind them get none. Error (kInterrupted) soon after control.stop is set, and of
// kind kHost where OpenSSL or the pagemap fails. The guest must be stopped for the digest to mean
// anything.
[[nodiscard]] Result<MemoryDigest> memory_digest(const GuestMemory& memory, const Pagemap& pagemap,
                                                 DigestControl& control);

// 64 hexadecimal digits.
[[nodiscard]] std::string to_string(const MemoryDigest& digest);

}  // namespace vmm::migration
