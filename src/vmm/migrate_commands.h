#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>

#include "base/result.h"
#include "vmm/migration_channels.h"

namespace vmm {

// What `vmm migrate` is told; what is not given is left to the guest's process.
struct MigrateOptions {
  std::string name;  // empty: the only guest that runs
  std::string to;    // host:port
  std::optional<std::uint64_t> downtime_limit_ms;
  std::optional<std::uint64_t> bandwidth_mib;  // MiB per second
  std::optional<std::uint64_t> channels;
  std::optional<std::uint64_t> max_rounds;
  std::optional<std::uint64_t> max_throttle;  // percent
  std::optional<std::uint64_t> timeout_s;
  std::optional<std::uint64_t> peer_timeout_s;
  std::optional<std::uint64_t> control_run_mib;
  std::string on_timeout = "cancel";
  std::string dirty_log = "auto";
  bool require_hw = false;
  bool verify = false;
  std::optional<std::string> peer_name;
  ChannelOptions connection;
  bool json = false;
  // The source asks the destination again by itself; after so long the operator is told.
  std::chrono::milliseconds doubt_tolerated{15'000};
};

// Starts a migration, follows it to its end and prints its report; an interrupt (Ctrl-C) cancels
// it. Errors are of kind kMigration where the guest runs on here, kInterrupted where that is so
// after an interrupt, kInDoubt where nobody here knows.
[[nodiscard]] Result<> migrate_guest(const MigrateOptions& options);
// Cancels the migration of a guest. An empty name means the only guest that runs.
[[nodiscard]] Result<> cancel_migration(const std::string& name);

// Prints what this host's records know of a migration; error (kFailed) where that is nothing.
[[nodiscard]] Result<> print_migration_status(const std::string& id, bool as_json);
// Decides a migration that is in doubt: the guest goes on here, or is given up. Where no guest
// waits for that, `resume` is an error (kNoSuchGuest), and giving it up keeps it from starting
// here: an error (kFailed) where it has.
[[nodiscard]] Result<> resolve_migration(const std::string& id, bool resume);

}  // namespace vmm
