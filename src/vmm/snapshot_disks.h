#pragma once

#include <span>
#include <vector>

#include "base/result.h"
#include "migration/snapshot_format.h"
#include "vmm/guest_config.h"
#include "vmm/guest_resources.h"

namespace vmm {

// Makes the images of a guest's writable disks durable, and says by what a change of them is seen.
// Requests must have been drained.
[[nodiscard]] Result<std::vector<migration::SnapshotDisk>> save_disks(
    const GuestConfig& config, const GuestResources& resources);

// Error (kFailed) where one of the images, which are held, is not what it was when the snapshot was
// made. The disks are those of the configuration that are writable, in its order.
[[nodiscard]] Result<> check_disks_unchanged(std::span<const migration::SnapshotDisk> disks,
                                             const GuestConfig& config,
                                             const GuestResources& resources);

}  // namespace vmm
