#pragma once

#include <filesystem>
#include <string>

#include "base/result.h"

namespace vmm {

struct SnapshotOptions {
  std::string name;          // empty: the only guest that runs
  std::filesystem::path to;  // file to write
  bool stop = false;         // the guest ends with it
};

// Saves a guest to a file, waits for that and says how it went; an interrupt (Ctrl-C) cancels it.
// After an error the guest is as it was; kInterrupted is one after an interrupt.
[[nodiscard]] Result<> snapshot_guest(const SnapshotOptions& options);

}  // namespace vmm
