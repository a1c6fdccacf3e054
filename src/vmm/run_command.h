#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "base/result.h"

namespace vmm {

struct RunOptions {
  std::filesystem::path config;
  std::optional<std::string> name;                    // instead of the configuration's
  std::optional<std::filesystem::path> console_file;  // instead of the configuration's
  bool detach = false;
};

// `vmm run`: boots a guest and returns when it has ended, or, detached, when it runs.
[[nodiscard]] Result<> run_guest(const RunOptions& options);

// `vmm check`: prints what this host can do. Error (kHost) where no guest can run here.
[[nodiscard]] Result<> check_this_host(bool as_json);

}  // namespace vmm
