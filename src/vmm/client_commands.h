#pragma once

#include <chrono>
#include <optional>
#include <string>

#include "base/result.h"

namespace vmm {

// The commands that talk to running guests. An empty name means the only guest that runs.

// Prints the guests of this user on this host.
[[nodiscard]] Result<> list_guests(bool as_json);
[[nodiscard]] Result<> pause_guest(const std::string& name);
[[nodiscard]] Result<> resume_guest(const std::string& name);
// Presses the power key and waits for the guest to end; error where that takes longer than timeout.
[[nodiscard]] Result<> stop_guest(const std::string& name, std::chrono::seconds timeout);
[[nodiscard]] Result<> kill_guest(const std::string& name);
[[nodiscard]] Result<> print_guest_stats(const std::string& name, bool as_json);
// Sets how much memory the guest shall give up, where a size ("512M") is given, and prints how much
// it has given up and what it says about its memory.
[[nodiscard]] Result<> balloon_guest(const std::string& name,
                                     const std::optional<std::string>& size, bool as_json);

}  // namespace vmm
