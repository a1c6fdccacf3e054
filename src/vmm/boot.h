#pragma once

#include <cstdint>
#include <vector>

#include "base/result.h"
#include "memory/guest_memory.h"
#include "vmm/guest_config.h"

namespace vmm {

// Where the first vCPU starts, and with what in x0 (Documentation/arch/arm64/booting.rst).
struct BootEntry {
  std::uint64_t kernel;
  std::uint64_t device_tree;
};

// Loads kernel, initrd and device tree into a guest's memory: the kernel at the start of RAM, the
// initrd at the end (of the first GiB, where there is more), the device tree below it. Errors
// (kUsage) where a file cannot be used or the memory is too small for them.
[[nodiscard]] Result<BootEntry> load_boot_images(const GuestConfig& config,
                                                 const std::vector<std::uint64_t>& cpu_affinities,
                                                 const GuestMemory& memory);

}  // namespace vmm
