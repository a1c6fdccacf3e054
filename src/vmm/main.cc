#include <signal.h>
#include <CLI/CLI.hpp>

#include <optional>
#include <string>

#include "base/log.h"
#include "vmm/client_commands.h"
#include "vmm/command_line.h"
#include "vmm/console_client.h"
#include "vmm/run_command.h"

namespace vmm {
namespace {

constexpr int kUsageExitCode = static_cast<int>(ErrorKind::kUsage);

void add_run(CLI::App& app, Action& action) {
  static RunOptions options;
  auto* command = app.add_subcommand("run", "Boot a guest");
  command->add_option("config", options.config, "Guest configuration (TOML)")
      ->required()
      ->type_name("FILE");
  command->add_option("--name", options.name, "Name of the guest instead of the configuration's");
  command->add_option("--console", options.console_file, "File to append console output to")
      ->type_name("FILE");
  command->add_flag("--detach", options.detach, "Return once the guest runs in the background");
  command->footer(
      "In the foreground the guest's console is on the terminal. Ctrl-] or SIGTERM asks the guest\n"
      "to shut down; once more ends it at once.");
  command->callback([&action] { action = [] { return run_guest(options); }; });
}

void add_guest_commands(CLI::App& app, Action& action) {
  static std::string name;
  static bool json = false;
  static bool serial = false;
  static std::int64_t timeout = 60;
  static std::optional<std::string> size;

  auto* list = app.add_subcommand("list", "List the running guests");
  list->add_flag("--json", json, "Print JSON");
  list->callback([&action] { action = [] { return list_guests(json); }; });

  add_guest_command(app, "pause", "Stop the vCPUs of a guest for now", name)->callback([&action] {
    action = [] { return pause_guest(name); };
  });
  add_guest_command(app, "resume", "Let a paused guest run again", name)->callback([&action] {
    action = [] { return resume_guest(name); };
  });

  auto* stop = add_guest_command(app, "stop", "Ask a guest to shut down, and wait for it", name);
  stop->add_option("--timeout", timeout, "Seconds to wait, 1 to 86400")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{86400}))
      ->capture_default_str();
  stop->callback(
      [&action] { action = [] { return stop_guest(name, std::chrono::seconds(timeout)); }; });

  add_guest_command(app, "kill", "End a guest at once, as a power cut does", name)
      ->callback([&action] { action = [] { return kill_guest(name); }; });
  auto* console = add_guest_command(
      app, "console", "Connect the terminal to a guest's console; Ctrl-] leaves", name);
  console->add_flag("--serial", serial, "The serial console, though there is a virtio console");
  console->callback([&action] { action = [] { return attach_console(name, serial); }; });

  auto* balloon =
      app.add_subcommand("balloon", "Show or set how much memory a guest gives back to the host");
  balloon->add_option("guest", name, "Name of the guest")->required()->type_name("NAME");
  balloon->add_option("size", size, "What the guest shall give back from now on, such as 512M or 0")
      ->type_name("SIZE");
  balloon->add_flag("--json", json, "Print JSON");
  balloon->callback([&action] { action = [] { return balloon_guest(name, size, json); }; });

  auto* stats = add_guest_command(app, "stats", "Show what a guest has used and done", name);
  stats->add_flag("--json", json, "Print JSON");
  auto* dirty_rate = add_dirty_rate_command(*stats, action);
  stats->callback([&action, dirty_rate] {
    if (!dirty_rate->parsed()) action = [] { return print_guest_stats(name, json); };
  });
}

void add_check(CLI::App& app, Action& action) {
  static bool json = false;
  auto* command = app.add_subcommand("check", "Show what this host can do");
  command->add_flag("--json", json, "Print JSON");
  command->callback([&action] { action = [] { return check_this_host(json); }; });
}

int run(int argc, char** argv) {
  // Broken pipes and sockets are errors of the write that met them.
  ::signal(SIGPIPE, SIG_IGN);
  log_to_stderr(LogLevel::kInfo);

  CLI::App app("A hypervisor for arm64 Linux guests on KVM, with live migration", "vmm");
  app.set_version_flag("--version", "vmm " VMM_VERSION);
  app.require_subcommand(1);
  app.footer(
      "Exit codes: 0 done, 1 failed, 2 usage or configuration, 3 no such guest, 4 the host lacks\n"
      "something, 5 migration failed and the guest runs on here, 6 in doubt, 130 interrupted.");
  Action action;
  add_run(app, action);
  add_guest_commands(app, action);
  add_migration_commands(app, action);
  add_snapshot_commands(app, action);
  add_tls_commands(app, action);
  add_check(app, action);
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& success) {  // --help, --version
    return app.exit(success);
  } catch (const CLI::ParseError& error) {
    log(LogLevel::kError, "{}; vmm --help explains", error.what());
    return kUsageExitCode;
  }

  const auto result = action();
  if (result) return 0;
  log(LogLevel::kError, "{}", result.error().message());
  return static_cast<int>(result.error().kind());
}

}  // namespace
}  // namespace vmm

int main(int argc, char** argv) {
  return vmm::run(argc, argv);
}
