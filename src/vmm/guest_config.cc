#include "vmm/guest_config.h"

#include <algorithm>
#include <array>
#include <charconv>

#include "base/checked.h"
#include "base/fd.h"
#include "vmm/guest_config_devices.h"
#include "vmm/layout.h"
#include "vmm/toml_reader.h"

namespace vmm {
namespace {

constexpr std::size_t kMaxFileSize = 1 << 20;
constexpr std::size_t kMaxNameLength = 64;
// COMMAND_LINE_SIZE of arm64 Linux, with the terminating zero.
constexpr std::size_t kMaxCmdline = 2048;

Result<> parse_boot(TableReader& root, const std::filesystem::path& folder, GuestConfig& config) {
  TRY(auto boot, root.get_table("boot"));
  TRY(const auto kernel, boot.get_path("kernel", folder));
  TRY(config.boot.initrd, boot.get_path("initrd", folder));
  TRY(const auto cmdline, boot.get_string("cmdline"));
  TRY(boot.refuse_unknown_keys());
  if (!kernel) return fail(boot.missing("kernel"));
  config.boot.kernel = *kernel;
  config.boot.cmdline = cmdline.value_or("");
  if (config.boot.cmdline.size() >= kMaxCmdline) {
    return fail(boot.error_for("cmdline", fmt::format("is longer than the {} characters that the "
                                                      "kernel takes",
                                                      kMaxCmdline - 1)));
  }
  return boot.refuse_zero("cmdline", config.boot.cmdline);
}

Result<> parse_cpu(TableReader& root, GuestConfig& config) {
  TRY(auto cpu, root.get_table("cpu"));
  const std::array known{std::pair{"sve", &config.cpu.sve}, std::pair{"pauth", &config.cpu.pauth},
                         std::pair{"pmu", &config.cpu.pmu}};
  if (const toml::node* node = cpu.node("features")) {
    const toml::array* features = node->as_array();
    if (features == nullptr) return fail(cpu.error_for("features", "is not a list of strings"));
    for (const toml::node& feature : *features) {
      const auto text = feature.value_exact<std::string>();
      const auto found = std::ranges::find_if(
          known, [&text](const auto& entry) { return text && *text == entry.first; });
      if (found == known.end()) {
        return fail(cpu.error_at(feature, R"(cpu.features takes "sve", "pauth" and "pmu" only)"));
      }
      *found->second = true;
    }
  }
  return cpu.refuse_unknown_keys();
}

Result<> parse_console(TableReader& root, const std::filesystem::path& folder,
                       GuestConfig& config) {
  TRY(auto console, root.get_table("console"));
  TRY(config.console_file, console.get_path("file", folder));
  TRY(const auto virtio, console.get_bool("virtio"));
  config.virtio_console = virtio.value_or(false);
  return console.refuse_unknown_keys();
}

Result<> parse_memory(TableReader& root, GuestConfig& config) {
  TRY(const auto memory, root.get_string("memory"));
  if (!memory) return fail(root.missing("memory"));
  const auto size = parse_size(*memory);
  if (!size) return fail(root.error_for("memory", size.error().message()));
  config.memory = size.value();
  if (config.memory < layout::kMinMemory || config.memory > layout::kMaxMemory ||
      config.memory % layout::kMemoryUnit != 0) {
    return fail(root.error_for("memory", R"(must be a multiple of 2M from "32M" to "1T")"));
  }
  TRY(const auto backing, root.get_string("backing"));
  if (backing && *backing != "anonymous" && *backing != "hugetlb") {
    return fail(root.error_for("backing", R"(must be "anonymous" or "hugetlb")"));
  }
  config.hugetlb = backing == "hugetlb";
  return success();
}

}  // namespace

Result<std::uint64_t> parse_size(std::string_view text) {
  std::uint64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  const std::string_view suffix(end, text.data() + text.size());
  constexpr std::string_view kSuffixes = "KMGT";
  std::optional<std::uint64_t> bytes;
  if (error == std::errc() && suffix.empty()) bytes = number;
  if (error == std::errc() && suffix.size() == 1) {
    const auto power = kSuffixes.find(suffix[0]);
    if (power != std::string_view::npos) {
      bytes = checked_mul(number, std::uint64_t{1} << (10 * (power + 1)));
    }
  }
  if (!bytes) return fail(ErrorKind::kUsage, R"(is not a size such as "512M" or "2G")");
  return *bytes;
}

Result<> check_guest_name(std::string_view name) {
  const auto alphanumeric = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
  };
  const bool good = !name.empty() && name.size() <= kMaxNameLength && alphanumeric(name[0]) &&
                    std::ranges::all_of(name, [&](char c) {
                      return alphanumeric(c) || c == '.' || c == '_' || c == '-';
                    });
  if (!good) {
    return fail(ErrorKind::kUsage,
                "must be 1 to {} letters, digits, '.', '_' or '-', the first a letter or digit",
                kMaxNameLength);
  }
  return success();
}

Result<GuestConfig> parse_guest_config(std::string_view text, const std::filesystem::path& file) {
  const toml::parse_result parsed = toml::parse(text, file.string());
  if (!parsed) {
    const auto position = parsed.error().source().begin;
    return fail(ErrorKind::kUsage, "{}:{}:{}: {}", file.string(), position.line, position.column,
                parsed.error().description());
  }
  const auto folder = file.parent_path();
  TableReader root(parsed.table(), file.string(), "");
  GuestConfig config;

  TRY(const auto name, root.get_string("name"));
  config.name = name ? *name : file.stem().string();
  if (const auto checked = check_guest_name(config.name); !checked) {
    if (name) return fail(root.error_for("name", checked.error().message()));
    return fail(ErrorKind::kUsage, "{}: name is missing, and the file's own name {}", file.string(),
                checked.error().message());
  }

  TRY(const auto vcpus, root.get<std::int64_t>("vcpus", "an integer"));
  if (vcpus && (*vcpus < 1 || *vcpus > layout::kMaxVcpus)) {
    return fail(root.error_for("vcpus", fmt::format("must be 1 to {}", layout::kMaxVcpus)));
  }
  config.vcpus = static_cast<unsigned>(vcpus.value_or(1));

  TRY(parse_memory(root, config));
  TRY(parse_boot(root, folder, config));
  TRY(parse_cpu(root, config));
  TRY(parse_console(root, folder, config));
  TRY(parse_devices(root, folder, config));
  TRY(root.refuse_unknown_keys());
  return config;
}

Result<GuestConfig> load_guest_config(const std::filesystem::path& file) {
  const auto text = read_file(file.string(), kMaxFileSize);
  if (!text) return fail(Error(ErrorKind::kUsage, text.error().message()));
  return parse_guest_config(text.value(), file);
}

}  // namespace vmm
