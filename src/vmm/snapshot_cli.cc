#include <CLI/CLI.hpp>

#include "vmm/command_line.h"
#include "vmm/restore_command.h"
#include "vmm/snapshot_commands.h"

namespace vmm {
namespace {

void add_snapshot(CLI::App& app, Action& action) {
  static SnapshotOptions options;
  auto* command = add_guest_command(app, "snapshot", "Save a guest to a file", options.name);
  command->add_option("--to", options.to, "File to write; one that is there is replaced")
      ->required()
      ->type_name("FILE");
  command->add_flag("--stop", options.stop,
                    "End the guest with it; needed where it writes to disks");
  command->footer(
      "The guest stands still while it is saved. Ctrl-C cancels that, and the guest goes on. A "
      "file\n"
      "that was there stays until the new one is complete.");
  command->callback([&action] { action = [] { return snapshot_guest(options); }; });
}

void add_restore(CLI::App& app, Action& action) {
  static RestoreOptions options;
  auto* command = app.add_subcommand("restore", "Run a guest that was saved to a file");
  command->add_option("file", options.file, "What vmm snapshot has written")
      ->required()
      ->type_name("FILE");
  command
      ->add_option("--config", options.config,
                   "Guest configuration with this host's disks, taps and boot files, by id")
      ->type_name("FILE");
  command
      ->add_option("--allow-path", options.allow_path,
                   "Folder in which images and boot files of the saved names may be used")
      ->type_name("DIR");
  command->add_option("--name", options.name, "Name of the guest instead of its own");
  command->add_flag("--detach", options.detach, "Return once the guest runs in the background");
  command->footer(
      "The guest runs at once, and its memory is loaded while it does. Where a part of that turns "
      "out\n"
      "to be damaged, the guest ends. Its console is reached with vmm console.");
  command->callback([&action] { action = [] { return restore_guest(options); }; });
}

}  // namespace

void add_snapshot_commands(CLI::App& app, Action& action) {
  add_snapshot(app, action);
  add_restore(app, action);
}

}  // namespace vmm
