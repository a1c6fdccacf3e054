#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>

#include "base/result.h"

namespace vmm {

// Where a kernel lies after loading, as byte offsets into guest RAM.
struct LoadedKernel {
  std::uint64_t entry;  // first instruction
  std::uint64_t end;    // first byte behind the image and its zero-initialised data
};

// Loads an arm64 Linux `Image` (Documentation/arch/arm64/booting.rst), raw or
// gzip-compressed, into RAM whose start is 2 MiB aligned, straight from the file. Errors (kUsage)
// where the file is missing, truncated, for another architecture, or does not fit.
[[nodiscard]] Result<LoadedKernel> load_kernel(const std::filesystem::path& file,
                                               std::span<std::byte> ram);

}  // namespace vmm
