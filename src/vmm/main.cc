#include <signal.h>
#include <CLI/CLI.hpp>

#include <functional>
#include <optional>
#include <string>

#include "base/log.h"
#include "vmm/client_commands.h"
#include "vmm/console_client.h"
#include "vmm/dirty_rate_command.h"
#include "vmm/migrate_commands.h"
#include "vmm/receive_command.h"
#include "vmm/run_command.h"

namespace vmm {
namespace {

constexpr int kUsageExitCode = static_cast<int>(ErrorKind::kUsage);

// The command that the command line asks for; options lie in static storage, as CLI11 fills them
// while parsing.
using Action = std::function<Result<>()>;

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

// A command about one running guest.
CLI::App* add_guest_command(CLI::App& app, const std::string& name, const std::string& help,
                            std::string& guest) {
  auto* command = app.add_subcommand(name, help);
  command->add_option("guest", guest, "Name of the guest; not needed where just one runs")
      ->type_name("NAME");
  return command;
}

CLI::App* add_dirty_rate(CLI::App& stats, Action& action) {
  static DirtyRateRequest request;
  static bool watch = false;
  auto* command =
      stats.add_subcommand("dirty-rate", "Measure how fast a guest writes to its memory");
  command->add_option("guest", request.name, "Name of the guest; not needed where just one runs")
      ->type_name("NAME");
  command->add_option("--period", request.period_ms, "Milliseconds to measure for, up to an hour")
      ->capture_default_str();
  command->add_option("--interval", request.interval_ms,
                      "Milliseconds between two looks; 100 by default");
  command->add_option("--count", request.count, "Measurements, one after the other")
      ->check(CLI::Range(std::uint64_t{1}, std::uint64_t{1'000'000}))
      ->capture_default_str();
  command->add_flag("--watch", watch, "Measure until interrupted");
  command->add_option("--dirty-log", request.mode, "How the guest's writes are found")
      ->check(CLI::IsMember({"auto", "hw", "wp"}))
      ->capture_default_str();
  command->add_flag("--json", request.json, "Print JSON, a line for each measurement");
  command->callback([&action] {
    action = [] {
      if (watch) request.count = 0;
      return measure_dirty_rate(request);
    };
  });
  return command;
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
  auto* dirty_rate = add_dirty_rate(*stats, action);
  stats->callback([&action, dirty_rate] {
    if (!dirty_rate->parsed()) action = [] { return print_guest_stats(name, json); };
  });
}

void add_receive(CLI::App& app, Action& action) {
  static ReceiveOptions options;
  static std::uint64_t peer_timeout = 10;
  auto* command = app.add_subcommand("receive", "Take one guest in from another host, and run it");
  command->add_option("--listen", options.listen, "Address to wait at, such as 0.0.0.0:4444")
      ->required()
      ->type_name("HOST:PORT");
  command
      ->add_option("--config", options.config,
                   "Guest configuration with this host's disks, taps and boot files, by id")
      ->type_name("FILE");
  command
      ->add_option("--allow-path", options.allow_path,
                   "Folder in which images of the source's names may be used")
      ->type_name("DIR");
  command->add_option("--name", options.name, "Name of the guest here instead of its own");
  command
      ->add_option("--peer-timeout", peer_timeout,
                   "Seconds of silence after which the source is lost")
      ->check(CLI::Range(std::uint64_t{1}, std::uint64_t{3600}))
      ->capture_default_str();
  command->add_flag("--plaintext", options.plaintext, "Without encryption; both sides must say so");
  command->add_flag("--detach", options.detach, "Return once it listens");
  command->callback([&action] {
    action = [] {
      options.peer_timeout = std::chrono::seconds(peer_timeout);
      return receive_guest(options);
    };
  });
}

void add_migrate(CLI::App& app, Action& action) {
  static MigrateOptions options;
  auto* command =
      add_guest_command(app, "migrate", "Move a running guest to another host", options.name);
  command->add_option("--to", options.to, "Where vmm receive waits")
      ->required()
      ->type_name("HOST:PORT");
  command->add_option("--downtime-limit", options.downtime_limit_ms,
                      "Milliseconds the guest may stand still; 300 by default");
  command->add_option("--bandwidth", options.bandwidth_mib, "Limit in MiB per second");
  command->add_option("--channels", options.channels, "Connections for memory, 1 to 16");
  command->add_option("--max-rounds", options.max_rounds,
                      "Rounds after which the limit is reached");
  command->add_option("--timeout", options.timeout_s, "Seconds after which the limit is reached");
  command->add_option("--on-timeout", options.on_timeout, "What happens at a limit")
      ->check(CLI::IsMember({"cancel", "stop-and-copy"}))
      ->capture_default_str();
  command->add_option("--peer-timeout", options.peer_timeout_s,
                      "Seconds of silence after which the destination is lost; 10 by default");
  command->add_option("--dirty-log", options.dirty_log, "How the guest's writes are found")
      ->check(CLI::IsMember({"auto", "hw", "wp"}))
      ->capture_default_str();
  command->add_flag("--require-hw", options.require_hw, "Refuse to go on without hardware logging");
  command->add_flag("--verify", options.verify, "Compare SHA-256 digests of all memory");
  command->add_flag("--plaintext", options.plaintext, "Without encryption; both sides must say so");
  command->add_option("--control-run", options.control_run_mib,
                      "For benchmarks: send so many MiB without logging, and end there");
  command->add_flag("--json", options.json, "Print the report as JSON");
  command->callback([&action] { action = [] { return migrate_guest(options); }; });

  static std::string cancelled;
  add_guest_command(app, "cancel", "Cancel the migration of a guest", cancelled)
      ->callback([&action] { action = [] { return cancel_migration(cancelled); }; });
}

void add_migration(CLI::App& app, Action& action) {
  static std::string id;
  static bool json = false;
  static bool resume = false;
  static bool discard = false;
  auto* command = app.add_subcommand("migration", "Look at or decide a migration");
  command->require_subcommand(1);
  auto* status = command->add_subcommand("status", "Show what this host knows of a migration");
  status->add_option("id", id, "Migration id, 32 hexadecimal digits")->required()->type_name("ID");
  status->add_flag("--json", json, "Print JSON");
  status->callback([&action] { action = [] { return print_migration_status(id, json); }; });
  auto* resolve = command->add_subcommand("resolve", "Decide a migration that is in doubt");
  resolve->add_option("id", id, "Migration id")->required()->type_name("ID");
  auto* choice = resolve->add_option_group("decision");
  choice->add_flag("--resume", resume, "The destination does not run the guest: it goes on here");
  choice->add_flag("--discard", discard, "The destination runs the guest: give it up here");
  choice->require_option(1);
  resolve->callback([&action] { action = [] { return resolve_migration(id, resume); }; });
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
  add_receive(app, action);
  add_migrate(app, action);
  add_migration(app, action);
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
