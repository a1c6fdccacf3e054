#include <CLI/CLI.hpp>

#include <cstdint>

#include "migration/policy.h"
#include "vmm/command_line.h"
#include "vmm/dirty_rate_command.h"
#include "vmm/migrate_commands.h"
#include "vmm/receive_command.h"

namespace vmm {

CLI::App* add_guest_command(CLI::App& app, const std::string& name, const std::string& help,
                            std::string& guest) {
  auto* command = app.add_subcommand(name, help);
  command->add_option("guest", guest, "Name of the guest; not needed where just one runs")
      ->type_name("NAME");
  return command;
}

CLI::App* add_dirty_rate_command(CLI::App& stats, Action& action) {
  static DirtyRateRequest request;
  static bool watch = false;
  auto* command = add_guest_command(stats, "dirty-rate",
                                    "Measure how fast a guest writes to its memory", request.name);
  command->add_option("--period", request.period_ms, "Milliseconds to measure for, up to an hour")
      ->capture_default_str();
  command->add_option("--interval", request.interval_ms,
                      "Milliseconds between two looks; 100, or the period where that is shorter");
  auto* count = command->add_option("--count", request.count, "Measurements, one after the other")
                    ->check(CLI::Range(std::uint64_t{1}, std::uint64_t{1'000'000}))
                    ->capture_default_str();
  command->add_flag("--watch", watch, "Measure until interrupted")->excludes(count);
  command->add_option("--dirty-log", request.dirty_log, "How the guest's writes are found")
      ->check(CLI::IsMember({"auto", "hw", "wp"}))
      ->capture_default_str();
  command->add_flag("--json", request.json, "Print JSON, a line for each measurement");
  command->callback([&action] {
    action = [] {
      if (watch) request.count = 0;
      return measure_dirty_rate(request);
    };
  });
  command->footer(
      "During a migration it prints how far that is instead, which logs the guest's writes by\n"
      "itself.");
  return command;
}

namespace {

// More than any link carries and any guest has; no product of it with a unit overflows.
constexpr std::uint64_t kMaxMebibytes = 1ULL << 20;
constexpr std::uint64_t kMaxSeconds = 366ULL * 24 * 3600;

void add_channel_options(CLI::App& command, ChannelOptions& options) {
  command
      .add_option("--tls-dir", options.tls_dir,
                  "Folder with this host's key and certificate, which vmm tls makes")
      ->type_name("DIR");
  command.add_flag("--plaintext", options.plaintext, "Without encryption; both sides must say so");
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
                   "Folder in which images and boot files of the source's names may be used")
      ->type_name("DIR");
  command->add_option("--name", options.name, "Name of the guest here instead of its own");
  command
      ->add_option("--peer-timeout", peer_timeout,
                   "Seconds of silence after which the source is lost")
      ->check(CLI::Range(std::uint64_t{1}, std::uint64_t{3600}))
      ->capture_default_str();
  command
      ->add_option("--allow-peer", options.allow_peers,
                   "Host that may bring a guest, by its certificate's name or fingerprint; "
                   "repeatable, needed without --plaintext")
      ->type_name("NAME|FINGERPRINT")
      ->allow_extra_args(false);
  add_channel_options(*command, options.channels);
  command->add_flag("--detach", options.detach, "Return once it listens");
  command->footer(
      "Disks, taps and boot files are this host's own: those of the same id in --config, or files\n"
      "of the same name in --allow-path. A guest that cannot come here is refused, and the next "
      "one\n"
      "waited for. One that has come is a guest like any other.");
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
  command->add_option("--bandwidth", options.bandwidth_mib, "Limit in MiB per second; 0 is none")
      ->check(CLI::Range(std::uint64_t{0}, kMaxMebibytes));
  command->add_option("--channels", options.channels,
                      "Connections for memory, 1 to 16; 2 by default");
  command->add_option("--max-rounds", options.max_rounds,
                      "Rounds with the guest running, at most; 30 by default");
  command
      ->add_option("--max-throttle", options.max_throttle,
                   "Percent by which a guest that writes too fast may be slowed; 0 by default")
      ->check(CLI::Range(std::uint64_t{0}, std::uint64_t{migration::kMostThrottle}));
  command
      ->add_option("--timeout", options.timeout_s,
                   "Seconds until the guest is stopped, at most; 1800 by default")
      ->check(CLI::Range(std::uint64_t{0}, kMaxSeconds));
  command
      ->add_option("--on-timeout", options.on_timeout,
                   "What happens where --max-rounds or --timeout is reached")
      ->check(CLI::IsMember({"cancel", "stop-and-copy"}))
      ->capture_default_str();
  command
      ->add_option("--peer-timeout", options.peer_timeout_s,
                   "Seconds of silence after which the destination is lost; 10 by default")
      ->check(CLI::Range(std::uint64_t{1}, std::uint64_t{3600}));
  command->add_option("--dirty-log", options.dirty_log, "How the guest's writes are found")
      ->check(CLI::IsMember({"auto", "hw", "wp"}))
      ->capture_default_str();
  command->add_flag("--require-hw", options.require_hw, "Fail rather than log without hardware");
  command->add_flag("--verify", options.verify, "Compare SHA-256 digests of all memory");
  command
      ->add_option("--peer-name", options.peer_name,
                   "Whom the destination's certificate is to be of, instead of the HOST of --to")
      ->type_name("NAME|FINGERPRINT");
  add_channel_options(*command, options.connection);
  command
      ->add_option("--control-run", options.control_run_mib,
                   "For benchmarks: send so many MiB without logging, and end there")
      ->check(CLI::Range(std::uint64_t{1}, kMaxMebibytes));
  command->add_flag("--json", options.json, "Print the report as JSON");
  command->footer(
      "Ctrl-C cancels it, and the guest runs on here. Exit code 5: it failed, and the guest runs "
      "on\n"
      "here. 6: in doubt, as the destination may run the guest and does not say so; vmm migration\n"
      "resolve decides.");
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
  status->add_option("id", id, "Migration id, 32 hexadecimal digits, as migrate tells it")
      ->required()
      ->type_name("ID");
  status->add_flag("--json", json, "Print JSON");
  status->callback([&action] { action = [] { return print_migration_status(id, json); }; });
  auto* resolve = command->add_subcommand("resolve", "Decide a migration that is in doubt");
  resolve->add_option("id", id, "Migration id")->required()->type_name("ID");
  auto* choice = resolve->add_option_group("decision");
  choice->add_flag("--resume", resume, "The destination does not run the guest: it goes on here");
  choice->add_flag("--discard", discard, "The destination runs the guest: give it up here");
  choice->require_option(1);
  resolve->footer(
      "At the source it decides what becomes of the guest that is paused there. At the "
      "destination\n"
      "--discard keeps a guest that has not started there from ever doing so.");
  resolve->callback([&action] { action = [] { return resolve_migration(id, resume); }; });
}

}  // namespace

void add_migration_commands(CLI::App& app, Action& action) {
  add_receive(app, action);
  add_migrate(app, action);
  add_migration(app, action);
}

}  // namespace vmm
