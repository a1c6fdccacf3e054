#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "base/result.h"

namespace vmm {

// What `vmm migrate` is told; what is not given is left to the guest's process.
struct MigrateOptions {
  std::string name;
  std::string to;
  std::optional<std::uint64_t> downtime_limit_ms;
  std::optional<std::uint64_t> bandwidth_mib;  // MiB per second
  std::optional<std::uint64_t> channels;
  std::optional<std::uint64_t> max_rounds;
  std::optional<std::uint64_t> timeout_s;
  std::optional<std::uint64_t> peer_timeout_s;
  std::optional<std::uint64_t> control_run_mib;
  std::string on_timeout = "cancel";
  std::string dirty_log = "auto";
  bool require_hw = false;
  bool verify = false;
  bool plaintext = false;
  bool json = false;
};

// Starts a migration and follows it to its end; an interrupt (Ctrl-C) cancels it. Errors are of
// kind kMigration where the guest runs on here, kInDoubt where nobody here knows.
[[nodiscard]] Result<> migrate_guest(const MigrateOptions& options);
// Cancels the migration of a guest. An empty name means the only guest that runs.
[[nodiscard]] Result<> cancel_migration(const std::string& name);

// Prints what this host knows of a migration.
[[nodiscard]] Result<> print_migration_status(const std::string& id, bool as_json);
// Decides a migration that is in doubt: the guest goes on here, or is given up.
[[nodiscard]] Result<> resolve_migration(const std::string& id, bool resume);

}  // namespace vmm
