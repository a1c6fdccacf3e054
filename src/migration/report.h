#pragma once

#include <boost/json/fwd.hpp>
#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "memory/dirty_log.h"
#include "migration/migration_id.h"

namespace vmm::migration {

// The result of a migration whose guest runs at the destination.
inline constexpr std::string_view kMigrated = "migrated";

// How a migration went, as `vmm migrate` tells it.
struct MigrationReport {
  std::string result;  // kMigrated, "failed", "cancelled", "in-doubt"
  MigrationId id;

  struct Round {
    std::uint32_t n = 1;
    DirtyLogMode mode = DirtyLogMode::kWriteProtect;
    std::uint64_t dirty_pages = 0;  // looked at
    std::uint64_t sent_bytes = 0;
    std::uint64_t zero_pages = 0;
    std::chrono::nanoseconds time{0};
    std::chrono::nanoseconds get_time{0};    // of the harvest
    std::chrono::nanoseconds clear_time{0};  // of all clears
    unsigned throttle_percent = 0;           // share of time that vCPUs were kept out of the guest
    [[nodiscard]] bool operator==(const Round&) const = default;
  };
  std::vector<Round> rounds;  // in order; the last is the one with the guest stopped

  std::chrono::nanoseconds total{0};
  std::chrono::nanoseconds downtime{0};  // from pausing the vCPUs here to running them there
  // Its parts.
  struct Parts {
    std::chrono::nanoseconds pause{0};
    std::chrono::nanoseconds harvest{0};
    std::chrono::nanoseconds send{0};
    std::chrono::nanoseconds save{0};
    std::chrono::nanoseconds transfer{0};
    std::chrono::nanoseconds restore{0};
    std::chrono::nanoseconds resume{0};
    [[nodiscard]] bool operator==(const Parts&) const = default;
  } parts;

  // SHA-256 of the guest's memory, hexadecimal, where --verify asked for it.
  struct Verify {
    std::string source;
    std::string destination;
    std::chrono::nanoseconds time{0};
    [[nodiscard]] bool operator==(const Verify&) const = default;
  };
  std::optional<Verify> verify;

  [[nodiscard]] bool operator==(const MigrationReport&) const = default;
};

// The object that `vmm migrate --json` ends with (docs/migration-protocol.md): times in ms, or in
// us where the name says so, exact to a nanosecond.
[[nodiscard]] boost::json::object to_json(const MigrationReport& report);
// A table for people, several lines, each ended.
[[nodiscard]] std::string to_text(const MigrationReport& report);

// How a migration is going.
struct Progress {
  std::string phase;  // state of the source, as to_string(SourceState) has it
  std::uint32_t round = 0;
  DirtyLogMode mode = DirtyLogMode::kWriteProtect;
  std::uint64_t sent_bytes = 0;                  // so far
  std::uint64_t remaining_bytes = 0;             // of this round
  double dirty_pages_per_s = 0;                  // in the last round
  double bytes_per_s = 0;                        // of sending
  std::optional<std::chrono::milliseconds> eta;  // of this round's end
  unsigned throttle_percent = 0;                 // now
  [[nodiscard]] bool operator==(const Progress&) const = default;
};

[[nodiscard]] boost::json::object to_json(const Progress& progress);
// One line, without its end.
[[nodiscard]] std::string to_text(const Progress& progress);

}  // namespace vmm::migration
