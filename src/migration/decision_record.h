#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "migration/messages.h"
#include "migration/migration_id.h"

namespace vmm::migration {

// What a host knows of a migration that leaves it.
enum class SourceOutcome : std::uint8_t {
  kCommitted,  // COMMIT is on its way
  kInDoubt,    // nobody here knows whether the destination runs the guest
  kDone,       // the destination runs it
  kResumed,    // it runs here again
  kDiscarded,  // the operator has given this copy up
};
[[nodiscard]] std::string_view to_string(SourceOutcome outcome);

struct SourceRecord {
  MigrationId id;
  std::string guest;        // name: 1 to 64 letters, digits, '.', '_', '-'
  std::string destination;  // "host:port"
  SourceOutcome outcome = SourceOutcome::kCommitted;
  std::int64_t time = 0;  // seconds since 1970, UTC
  [[nodiscard]] bool operator==(const SourceRecord&) const = default;
};

// What a destination has decided, and when.
struct Decision {
  Outcome outcome = Outcome::kDiscarded;
  std::int64_t time = 0;  // seconds since 1970, UTC
  [[nodiscard]] bool operator==(const Decision&) const = default;
};

// The records of this host's migrations, one small text file each ("key=value" lines) in one
// folder: ID.destination is written once and never changed, ID.source is replaced as a whole. They
// outlive processes and power cuts. Any number of processes and threads may use a folder at once.
//
// Errors are of kind kFailed and leave no half-written record: folder full, read-only or failing,
// or a record that makes no sense.
class DecisionRecords {
 public:
  // Makes the folder, with mode 0700, and those it is in where they do not exist.
  [[nodiscard]] static Result<DecisionRecords> open(const std::filesystem::path& folder);

  // The same at default_records_folder(), where old records are swept on the way.
  [[nodiscard]] static Result<DecisionRecords> open_default();

  // Decides a migration that comes to this host, and returns what is decided: `outcome`, or what
  // was decided before, by whomever. What is returned is on the disk. After an error nothing is
  // decided by this call, though another one may have.
  [[nodiscard]] Result<Outcome> decide(const MigrationId& id, Outcome outcome, std::int64_t now);
  // What is decided, and is on the disk; nothing where nothing is.
  [[nodiscard]] Result<std::optional<Decision>> lookup(const MigrationId& id) const;

  // Records what this host knows of a migration that leaves it, in place of what it knew.
  [[nodiscard]] Result<> put(const SourceRecord& record);
  [[nodiscard]] Result<std::optional<SourceRecord>> source(const MigrationId& id) const;

  // Removes records older than kKeep (by the file's date; `now` in seconds since 1970), except of
  // migrations in doubt, and what killed processes have left behind. At most kMaxSwept a call.
  // Returns how many files went.
  [[nodiscard]] Result<std::size_t> sweep(std::int64_t now);
  static constexpr std::chrono::hours kKeep{24 * 30};
  static constexpr std::size_t kMaxSwept = 1000;

  [[nodiscard]] const std::filesystem::path& folder() const { return folder_; }

 private:
  explicit DecisionRecords(std::filesystem::path folder) : folder_(std::move(folder)) {}

  std::filesystem::path folder_;
};

// Where records are kept unless told otherwise: $XDG_STATE_HOME/vmm/migrations, else
// /var/lib/vmm/migrations for root and ~/.local/state/vmm/migrations for others. Error (kHost)
// where there is no home. Reads the environment: not while another thread changes it.
[[nodiscard]] Result<std::filesystem::path> default_records_folder();

}  // namespace vmm::migration
