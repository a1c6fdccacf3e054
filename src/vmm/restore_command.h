#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "base/result.h"

namespace vmm {

struct RestoreOptions {
  std::string file;
  std::optional<std::filesystem::path> config;
  std::optional<std::filesystem::path> allow_path;
  std::optional<std::string> name;
  bool detach = false;
};

// Runs the guest of a snapshot until it ends.
[[nodiscard]] Result<> restore_guest(const RestoreOptions& options);

}  // namespace vmm
