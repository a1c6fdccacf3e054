#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "base/result.h"
#include "devices/mac_address.h"

namespace vmm {

// A guest as its configuration file describes it (docs/guest-config.md). Paths are absolute, or
// relative to the working directory of the program, once parsed.
struct GuestConfig {
  std::string name;
  unsigned vcpus = 1;        // 1 to layout::kMaxVcpus
  std::uint64_t memory = 0;  // bytes, a multiple of 2 MiB
  bool hugetlb = false;      // backing = "hugetlb"

  struct Boot {
    std::filesystem::path kernel;
    std::optional<std::filesystem::path> initrd;
    std::string cmdline;
  } boot;

  struct Cpu {
    bool sve = false;
    bool pauth = false;
    bool pmu = false;
  } cpu;

  // Where the console's output is also written; none by default.
  std::optional<std::filesystem::path> console_file;
  bool virtio_console = false;  // a virtio console (hvc0) beside the serial one

  struct Disk {
    std::string id;
    std::filesystem::path path;
    bool direct = false;
    bool readonly = false;
    std::string serial;  // at most 20 characters
  };
  std::vector<Disk> disks;  // in the guest's order

  struct Net {
    std::string id;
    std::variant<std::string, int> tap;  // name, or descriptor passed by the parent
    std::optional<MacAddress> mac;       // derived from the guest's name where there is none
  };
  std::vector<Net> nets;  // in the guest's order

  bool rng = true;
  bool balloon = false;
};

// Virtio devices of a guest, one slot each.
[[nodiscard]] unsigned virtio_device_count(const GuestConfig& config);

// Parses TOML text. `file` names it in errors ("file:line:column: what") and is what relative paths
// are relative to. Unknown keys, wrong types and values out of range are errors (kUsage).
[[nodiscard]] Result<GuestConfig> parse_guest_config(std::string_view text,
                                                     const std::filesystem::path& file);

// Reads and parses a file. A name that is not given is the file's name without its extension.
[[nodiscard]] Result<GuestConfig> load_guest_config(const std::filesystem::path& file);

// Bytes of a size such as "512M" or "2G" (K, M, G, T: powers of 1024; no suffix: bytes).
[[nodiscard]] Result<std::uint64_t> parse_size(std::string_view text);

// Error (kUsage) unless name is 1 to 64 letters, digits, '.', '_' or '-', and starts with a letter
// or digit: it becomes part of file names.
[[nodiscard]] Result<> check_guest_name(std::string_view name);

}  // namespace vmm
