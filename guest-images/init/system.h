#pragma once

#include <string>
#include <string_view>

#include "base/result.h"

namespace vmm::guest {

// Prints "vmm-guest: TEXT" on the console.
void say(std::string_view text);
// Prints an error the same way; init goes on after most of them.
void say(const Error& error);

// CLOCK_BOOTTIME as seconds with milliseconds, "0.412".
[[nodiscard]] std::string uptime();

// Mounts /proc, /sys, /dev and what programs expect below them. What is mounted already is left
// alone; every failure is printed.
void mount_all();

// Whether the file system that holds `path` is mounted there. False where there is no such file.
[[nodiscard]] bool is_mount_point(const std::string& path);

// Contents of a small file such as /proc/cmdline.
[[nodiscard]] Result<std::string> slurp(const std::string& path);

enum class Ending { kPowerOff, kReboot, kHalt };

// Ends the system in order: asks all processes to end, kills what is left after a second, unmounts,
// and tells the kernel. Does not return.
[[noreturn]] void end_system(Ending ending);

}  // namespace vmm::guest
