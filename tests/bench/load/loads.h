#pragma once

#include "base/result.h"
#include "load/options.h"

namespace vmm::load {

// Each does what its options say and prints the lines of measured().
[[nodiscard]] Result<> run_disk(const DiskLoad& load);
[[nodiscard]] Result<> run_network(const NetworkLoad& load);
// Returns only with an error.
[[nodiscard]] Result<> serve(const Server& server);

}  // namespace vmm::load
