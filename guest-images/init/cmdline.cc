#include "init/cmdline.h"

namespace vmm::guest {
namespace {

constexpr std::string_view kBlanks = " \t\r\n";

}  // namespace

std::vector<std::string> split_command_line(std::string_view text) {
  std::vector<std::string> parameters;
  std::string current;
  bool quoted = false;
  bool started = false;
  const auto finish = [&] {
    if (started) parameters.push_back(current);
    current.clear();
    started = false;
  };
  for (const char c : text) {
    if (c == '"') {
      quoted = !quoted;
      started = true;
    } else if (!quoted && kBlanks.find(c) != std::string_view::npos) {
      finish();
      if (!parameters.empty() && parameters.back() == "--") break;
    } else {
      current += c;
      started = true;
    }
  }
  finish();
  if (!parameters.empty() && parameters.back() == "--") parameters.pop_back();
  return parameters;
}

std::optional<std::string> parameter(std::string_view text, std::string_view name) {
  std::optional<std::string> value;
  for (const std::string& item : split_command_line(text)) {
    const std::string_view word = item;
    const std::size_t equals = word.find('=');
    if (word.substr(0, equals) != name) continue;
    value = equals == std::string_view::npos ? "" : std::string(word.substr(equals + 1));
  }
  return value;
}

std::optional<RootDisk> root_disk(std::string_view text) {
  const auto device = parameter(text, "root");
  if (!device) return std::nullopt;
  RootDisk disk{*device, parameter(text, "rootfstype").value_or("ext4"), true,
                parameter(text, "init").value_or("/sbin/init")};
  for (const std::string& item : split_command_line(text)) {
    if (item == "ro" || item == "rw") disk.read_only = item == "ro";
  }
  return disk;
}

std::string console_path(std::string_view active) {
  const std::size_t end = active.find_last_not_of(kBlanks);
  if (end == std::string_view::npos) return "/dev/console";
  const std::size_t before = active.find_last_of(kBlanks, end);
  const std::size_t begin = before == std::string_view::npos ? 0 : before + 1;
  return "/dev/" + std::string(active.substr(begin, end + 1 - begin));
}

}  // namespace vmm::guest
