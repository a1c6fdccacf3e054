#include <CLI/CLI.hpp>

#include "vmm/command_line.h"
#include "vmm/tls_commands.h"

namespace vmm {

void add_tls_commands(CLI::App& app, Action& action) {
  static TlsFolder folder;
  static std::string host;
  static std::optional<std::string> name;
  static std::optional<std::filesystem::path> out;
  static bool json = false;
  auto* command = app.add_subcommand("tls", "Keys and certificates for migrations");
  command->require_subcommand(1);
  const auto add = [command](const char* word, const char* help) {
    auto* one = command->add_subcommand(word, help);
    one->add_option(
           "--tls-dir", folder.path,
           "Folder of them; $XDG_CONFIG_HOME/vmm/tls, /etc/vmm/tls or ~/.config/vmm/tls by "
           "default")
        ->type_name("DIR");
    return one;
  };
  auto* init = add("init", "Make a CA, and a key and certificate for this host");
  init->add_option("--name", name, "Name of this host instead of its own")->type_name("HOST");
  init->callback([&action] { action = [] { return init_tls(folder, name); }; });

  auto* issue = add("issue", "Make a key and certificate for another host, where the CA was made");
  issue->add_option("host", host, "Name of the host")->required()->type_name("HOST");
  issue->add_option("--out", out, "Folder to make; HOST by default")->type_name("DIR");
  issue->callback([&action] { action = [] { return issue_tls(folder, host, out); }; });

  auto* revoke = add("revoke", "Revoke certificates, where the CA was made");
  revoke->add_option("peer", host, "Name of a host, or SHA-256 fingerprint of a certificate")
      ->required()
      ->type_name("NAME|FINGERPRINT");
  revoke->callback([&action] { action = [] { return revoke_tls(folder, host); }; });

  auto* show = add("show", "Show who this host is");
  show->add_flag("--json", json, "Print JSON");
  show->callback([&action] { action = [] { return show_tls(folder, json); }; });
}

}  // namespace vmm
