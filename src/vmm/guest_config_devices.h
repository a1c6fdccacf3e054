#pragma once

#include <filesystem>

#include "base/result.h"
#include "vmm/guest_config.h"

namespace vmm {

class TableReader;

// Reads [[disk]], [[net]], [rng] and [balloon] of a guest's configuration. Errors are of kind
// kUsage, with the place in the file.
[[nodiscard]] Result<> parse_devices(TableReader& root, const std::filesystem::path& folder,
                                     GuestConfig& config);

}  // namespace vmm
