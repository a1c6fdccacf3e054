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

// The disk that the system goes on from: what root=, rootfstype=, ro, rw and init= say.
struct RootDisk {
  std::string device;     // node such as "/dev/vda"
  std::string type;       // file system, ext4 unless named
  bool read_only = true;  // as with the kernel's own mounting, unless "rw" is there
  std::string init;       // first program of the system on it

  bool operator==(const RootDisk&) const = default;
};

// The root disk of a kernel command line; nullopt where it has no root=, so that the system is the
// initial RAM disk itself. Of several "ro" and "rw" the last one counts.
[[nodiscard]] std::optional<RootDisk> root_disk(std::string_view text);

// Device node of the console in use, from the text of /sys/class/tty/console/active, whose last
// word is the preferred one ("tty0 ttyAMA0"). "/dev/console" where there is none.
[[nodiscard]] std::string console_path(std::string_view active);

}  // namespace vmm::guest
