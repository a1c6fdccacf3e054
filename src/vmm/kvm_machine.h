#pragma once

#include "kvm/system.h"
#include "vmm/machine_parts.h"

namespace vmm {

// Builds machines on KVM: of a configuration whose boot files are loaded, or to take in a guest
// from another host. system must outlive the maker.
[[nodiscard]] MachineMaker kvm_machines(const kvm::System& system);

}  // namespace vmm
