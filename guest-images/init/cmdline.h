#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace vmm::guest {

// Splits a kernel command line into parameters the way the kernel does (lib/cmdline.c, next_arg):
// at blanks outside double quotes, with the quotes around a parameter or its value removed. Stops
// at "--", after which the words belong to init.
[[nodiscard]] std::vector<std::string> split_command_line(std::string_view text);

// Value of the last parameter `name`: empty where it has none ("vmm.shell"), nullopt where it is
// not there.
[[nodiscard]] std::optional<std::string> parameter(std::string_view text, std::string_view name);

// Device node of the console in use, from the text of /sys/class/tty/console/active, whose last
// word is the preferred one ("tty0 ttyAMA0"). "/dev/console" where there is none.
[[nodiscard]] std::string console_path(std::string_view active);

}  // namespace vmm::guest
