#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "base/result.h"
#include "migration/manifest.h"
#include "vmm/guest_config.h"
#include "vmm/guest_resources.h"

namespace vmm {

// What the operator of this host lets an incoming guest use.
struct IncomingOptions {
  std::optional<GuestConfig> config;                // its disks, nets and boot files, by id
  std::optional<std::filesystem::path> allow_path;  // images and boot files of the source's names
  std::optional<std::string> name;                  // instead of the guest's own
};

// The machine of a manifest with this host's resources. No path or name of a resource comes from
// the manifest but file names that are looked up in allow_path. Errors (kUsage) name what is not
// mapped; a boot file that is missing is no error, only the guest's next reboot will be one.
[[nodiscard]] Result<GuestConfig> incoming_config(const migration::Manifest& manifest,
                                                  const IncomingOptions& options);

// Error (kUsage) unless each disk here has the size that it has at the source.
[[nodiscard]] Result<> check_disk_sizes(const migration::Manifest& manifest,
                                        const GuestResources& resources);

}  // namespace vmm
