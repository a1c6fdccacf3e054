#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "base/result.h"

namespace vmm::guest {

// Starts a program with the console as its input, output and controlling terminal, all signals
// unblocked. `arguments`: path first. Returns the process id.
[[nodiscard]] Result<pid_t> start_on_console(const std::vector<std::string>& arguments,
                                             const std::string& console);

}  // namespace vmm::guest
