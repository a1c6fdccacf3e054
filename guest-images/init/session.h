#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "base/result.h"

namespace vmm::guest {

// Whether a program gets the console as its controlling terminal. Only one can have it: the end of
// its session hangs the console up.
enum class Terminal { kControlling, kPlain };

// Starts a program in a session of its own with the console as its input and output, all signals
// unblocked. `arguments`: path first. Returns the process id.
[[nodiscard]] Result<pid_t> start_on_console(const std::vector<std::string>& arguments,
                                             const std::string& console, Terminal terminal_use);

}  // namespace vmm::guest
