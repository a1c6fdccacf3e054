#pragma once

#include "base/result.h"
#include "init/cmdline.h"

namespace vmm::guest {

// Whether the root file system is the initial RAM disk.
[[nodiscard]] bool runs_from_ram();

// Leaves the initial RAM disk for a disk: waits until its node is there (10 s at most), mounts it,
// moves /dev, /proc, /sys and /run onto it, frees the RAM disk's memory, and becomes the disk's
// init. The system must still run from RAM and this be its only process. Returns only on failure,
// with the reason.
[[nodiscard]] Error switch_root(const RootDisk& disk);

}  // namespace vmm::guest
