#pragma once

#include "base/result.h"
#include "migration/manifest.h"
#include "vmm/guest_config.h"
#include "vmm/guest_resources.h"

namespace vmm {

// What is known of a guest without asking KVM; id, CPU identity and the wishes of the migration are
// left to be filled in.
[[nodiscard]] migration::Manifest machine_manifest(const GuestConfig& config,
                                                   const GuestResources& resources);
// The same for a guest that is to move. Error (kMigration) naming what cannot be moved: the
// performance monitor's state, and disks that are written to through this host's page cache, as the
// destination would not see what is in there.
[[nodiscard]] Result<migration::Manifest> outgoing_manifest(const GuestConfig& config,
                                                            const GuestResources& resources);

}  // namespace vmm
