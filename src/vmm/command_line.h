#pragma once

#include <functional>
#include <string>

#include "base/result.h"

namespace CLI {
class App;
}

namespace vmm {

// The command that the command line asks for. Its options lie in static storage, as CLI11 fills
// them while it parses; each of these functions is called once.
using Action = std::function<Result<>()>;

// A command about one running guest, with its name as the argument; app and guest outlive the
// parsing.
CLI::App* add_guest_command(CLI::App& app, const std::string& name, const std::string& help,
                            std::string& guest);

// receive, migrate, cancel, and migration status and resolve.
void add_migration_commands(CLI::App& app, Action& action);
// snapshot and restore.
void add_snapshot_commands(CLI::App& app, Action& action);
// tls init, issue, revoke and show.
void add_tls_commands(CLI::App& app, Action& action);
// stats dirty-rate; stats is the command that it belongs to.
CLI::App* add_dirty_rate_command(CLI::App& stats, Action& action);

}  // namespace vmm
