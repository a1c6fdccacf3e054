#include "vmm/guest_config.h"

#include <algorithm>
#include <array>
#include <charconv>

#define TOML_EXCEPTIONS 0
#include <toml++/toml.h>

#include "base/checked.h"
#include "base/fd.h"
#include "vmm/layout.h"

namespace vmm {
namespace {

constexpr std::size_t kMaxFileSize = 1 << 20;
constexpr std::size_t kMaxNameLength = 64;
// COMMAND_LINE_SIZE of arm64 Linux, with the terminating zero.
constexpr std::size_t kMaxCmdline = 2048;

// Reads values out of one TOML table, and knows which keys it was asked for, so that the others can
// be called unknown.
class TableReader {
 public:
  TableReader(const toml::table& table, std::string file, std::string prefix)
      : table_(table), file_(std::move(file)), prefix_(std::move(prefix)) {}

  [[nodiscard]] Error error_at(const toml::node& node, std::string_view what) const {
    const auto position = node.source().begin;
    return make_error(ErrorKind::kUsage, "{}:{}:{}: {}", file_, position.line, position.column,
                      what);
  }

  // The value of a key of type T, or nothing where the key is absent.
  template <typename T>
  [[nodiscard]] Result<std::optional<T>> get(std::string_view key, std::string_view type_name) {
    known_.emplace_back(key);
    const toml::node* node = table_.get(key);
    if (node == nullptr) return std::optional<T>();
    const auto value = node->value_exact<T>();
    if (!value)
      return fail(error_at(*node, fmt::format("{}{} is not {}", prefix_, key, type_name)));
    return std::optional<T>(*value);
  }

  [[nodiscard]] Result<std::optional<std::string>> get_string(std::string_view key) {
    return get<std::string>(key, "a string");
  }

  // A nested table, or an empty one where the key is absent.
  [[nodiscard]] Result<TableReader> get_table(std::string_view key) {
    static const toml::table kEmpty;
    known_.emplace_back(key);
    const toml::node* node = table_.get(key);
    const toml::table* nested = node == nullptr ? &kEmpty : node->as_table();
    if (nested == nullptr) return fail(error_at(*node, fmt::format("{} is not a table", key)));
    return TableReader(*nested, file_, fmt::format("{}.", key));
  }

  // The path that a key names, relative to folder, or nothing where the key is absent.
  [[nodiscard]] Result<std::optional<std::filesystem::path>> get_path(
      std::string_view key, const std::filesystem::path& folder) {
    TRY(const auto text, get_string(key));
    if (!text) return std::optional<std::filesystem::path>();
    if (text->empty()) return fail(error_for(key, "is empty"));
    TRY(refuse_zero(key, *text));
    return std::optional(folder / *text);
  }
  // Error where the text of a key has a zero in it: what comes behind would be cut off unseen.
  [[nodiscard]] Result<> refuse_zero(std::string_view key, std::string_view text) const {
    if (text.find('\0') == std::string_view::npos) return success();
    return fail(error_for(key, "contains a zero character"));
  }

  [[nodiscard]] const toml::node* node(std::string_view key) {
    known_.emplace_back(key);
    return table_.get(key);
  }

  // Error about the value of a key that get() found.
  [[nodiscard]] Error error_for(std::string_view key, std::string_view what) const {
    return error_at(*table_.get(key), fmt::format("{}{} {}", prefix_, key, what));
  }
  // Error about a key that is missing from this table.
  [[nodiscard]] Error missing(std::string_view key) const {
    return make_error(ErrorKind::kUsage, "{}: {}{} is missing", file_, prefix_, key);
  }

  [[nodiscard]] Result<> refuse_unknown_keys() const {
    for (const auto& [key, node] : table_) {
      if (std::ranges::find(known_, key.str()) != known_.end()) continue;
      const auto position = key.source().begin;
      return fail(ErrorKind::kUsage, "{}:{}:{}: unknown key {}{}", file_, position.line,
                  position.column, prefix_, key.str());
    }
    return success();
  }

 private:
  const toml::table& table_;
  std::string file_;
  std::string prefix_;  // "boot." in [boot]
  std::vector<std::string> known_;
};

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
  TRY(root.refuse_unknown_keys());
  return config;
}

Result<GuestConfig> load_guest_config(const std::filesystem::path& file) {
  const auto text = read_file(file.string(), kMaxFileSize);
  if (!text) return fail(Error(ErrorKind::kUsage, text.error().message()));
  return parse_guest_config(text.value(), file);
}

}  // namespace vmm
