#include "migration/decision_record.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <ctime>
#include <map>
#include <span>

#include "base/fd.h"
#include "base/log.h"

namespace vmm::migration {
namespace {

constexpr std::size_t kMaxRecord = 1024;
constexpr std::size_t kMaxGuestName = 64;
constexpr std::size_t kMaxDestination = 300;
constexpr std::string_view kDestinationExtension = ".destination";
constexpr std::string_view kSourceExtension = ".source";
constexpr std::string_view kTemporaryExtension = ".tmp";
// Younger temporary files may belong to a process at work.
constexpr std::int64_t kTemporaryLife = 3600;

constexpr SourceOutcome kSourceOutcomes[] = {SourceOutcome::kCommitted, SourceOutcome::kInDoubt,
                                             SourceOutcome::kDone, SourceOutcome::kResumed,
                                             SourceOutcome::kDiscarded};

using Fields = std::map<std::string, std::string, std::less<>>;

Result<> sync(const Fd& fd, const std::string& name) {
  if (::fsync(fd.get()) != 0) return fail_errno(ErrorKind::kFailed, "cannot sync {}", name);
  return success();
}

Result<> sync_folder(const std::filesystem::path& folder) {
  TRY(const auto fd, open_file(folder, O_RDONLY | O_DIRECTORY));
  return sync(fd, folder);
}

// Keeps readers of decisions away while one is made and may be taken back. A decision that nobody
// but its writer has seen is none.
Result<Fd> lock_folder(const std::filesystem::path& folder, int operation) {
  TRY(auto fd, open_file(folder, O_RDONLY | O_DIRECTORY));
  while (::flock(fd.get(), operation) != 0) {
    if (errno != EINTR) return fail_errno(ErrorKind::kFailed, "cannot lock {}", folder.string());
  }
  return fd;
}

// A file that goes unless it was renamed; its name is no other's.
class TemporaryFile {
 public:
  // Holds the text, durably; its entry in the folder is not durable, and need not be.
  static Result<TemporaryFile> create(const std::filesystem::path& folder, std::string_view text) {
    static std::atomic<unsigned> count = 0;
    TemporaryFile file(folder / fmt::format("{}-{}{}", ::getpid(), count++, kTemporaryExtension));
    // One of this name is of a process that is gone: ours uses each number once.
    static_cast<void>(::unlink(file.path_.c_str()));
    TRY(const auto fd, open_file(file.path_, O_WRONLY | O_CREAT | O_EXCL, 0600));
    TRY(write_all(fd, std::as_bytes(std::span(text)), file.path_));
    TRY(sync(fd, file.path_));
    return file;
  }
  TemporaryFile(TemporaryFile&& other) noexcept : path_(std::exchange(other.path_, {})) {}
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;
  TemporaryFile& operator=(TemporaryFile&&) = delete;
  ~TemporaryFile() {
    // What cannot be removed is swept later.
    if (!path_.empty()) static_cast<void>(::unlink(path_.c_str()));
  }

  // Gives it a second name; false where that is taken.
  [[nodiscard]] Result<bool> link_as(const std::filesystem::path& path) const {
    if (::link(path_.c_str(), path.c_str()) == 0) return true;
    if (errno == EEXIST) return false;
    return fail_errno(ErrorKind::kFailed, "cannot make {}", path.string());
  }
  [[nodiscard]] Result<> rename_to(const std::filesystem::path& path) && {
    if (::rename(path_.c_str(), path.c_str()) != 0) {
      return fail_errno(ErrorKind::kFailed, "cannot replace {}", path.string());
    }
    path_.clear();
    return success();
  }

 private:
  explicit TemporaryFile(std::filesystem::path path) : path_(std::move(path)) {}

  std::string path_;
};

Result<Fields> parse_fields(std::string_view text, const std::string& path) {
  Fields fields;
  while (!text.empty()) {
    const auto end = text.find('\n');
    const auto line = text.substr(0, end);
    const auto equals = line.find('=');
    if (end == std::string_view::npos || equals == std::string_view::npos ||
        !fields.emplace(line.substr(0, equals), line.substr(equals + 1)).second) {
      return fail(ErrorKind::kFailed, "{} is damaged", path);
    }
    text.remove_prefix(end + 1);
  }
  return fields;
}

// Nothing where there is no such file.
Result<std::optional<Fields>> read_fields(const std::string& path) {
  const auto text = read_file(path, kMaxRecord);
  if (!text) {
    if (text.error().system_errno() == ENOENT) return std::optional<Fields>{};
    return fail(text.error());
  }
  TRY(auto fields, parse_fields(text.value(), path));
  return std::optional(std::move(fields));
}

std::string_view field(const Fields& fields, std::string_view key) {
  const auto found = fields.find(key);
  return found == fields.end() ? std::string_view{} : std::string_view(found->second);
}

std::optional<std::int64_t> parse_time(std::string_view text) {
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size() || value < 0) return std::nullopt;
  return value;
}

std::optional<SourceOutcome> parse_source_outcome(std::string_view text) {
  for (const auto outcome : kSourceOutcomes) {
    if (text == to_string(outcome)) return outcome;
  }
  return std::nullopt;
}

Result<Decision> parse_decision(const Fields& fields, const MigrationId& id,
                                const std::string& path) {
  const auto time = parse_time(field(fields, "time"));
  const auto outcome = field(fields, "outcome");
  const bool started = outcome == to_string(Outcome::kStarted);
  if (fields.size() != 3 || field(fields, "id") != id.to_string() || !time ||
      (!started && outcome != to_string(Outcome::kDiscarded))) {
    return fail(ErrorKind::kFailed, "{} is damaged", path);
  }
  return Decision{started ? Outcome::kStarted : Outcome::kDiscarded, *time};
}

bool plausible(std::string_view text, std::size_t max) {
  const auto visible = [](char c) { return c > ' ' && c <= '~'; };
  return !text.empty() && text.size() <= max && std::ranges::all_of(text, visible);
}

bool plausible(const SourceRecord& record) {
  return plausible(record.guest, kMaxGuestName) && plausible(record.destination, kMaxDestination) &&
         record.time >= 0;
}

Result<SourceRecord> parse_source(const Fields& fields, const MigrationId& id,
                                  const std::string& path) {
  const auto time = parse_time(field(fields, "time"));
  const auto outcome = parse_source_outcome(field(fields, "outcome"));
  if (fields.size() != 5 || field(fields, "id") != id.to_string() || !time || !outcome) {
    return fail(ErrorKind::kFailed, "{} is damaged", path);
  }
  SourceRecord record{id, std::string(field(fields, "guest")),
                      std::string(field(fields, "destination")), *outcome, *time};
  if (!plausible(record)) return fail(ErrorKind::kFailed, "{} is damaged", path);
  return record;
}

std::filesystem::path destination_path(const std::filesystem::path& folder, const MigrationId& id) {
  return folder / (id.to_string() + std::string(kDestinationExtension));
}

std::filesystem::path source_path(const std::filesystem::path& folder, const MigrationId& id) {
  return folder / (id.to_string() + std::string(kSourceExtension));
}

// Calls visit(path) for each file of a folder until it returns false.
template <typename Visit>
Result<> for_each_file(const std::filesystem::path& folder, Visit visit) {
  std::error_code error;
  auto entry = std::filesystem::directory_iterator(folder, error);
  for (; !error && entry != std::filesystem::directory_iterator(); entry.increment(error)) {
    if (!visit(entry->path())) return success();
  }
  if (error) {
    return fail(ErrorKind::kFailed, "cannot list {}: {}", folder.string(), error.message());
  }
  return success();
}

}  // namespace

std::string_view to_string(SourceOutcome outcome) {
  switch (outcome) {
    case SourceOutcome::kCommitted:
      return "committed";
    case SourceOutcome::kInDoubt:
      return "in-doubt";
    case SourceOutcome::kDone:
      return "done";
    case SourceOutcome::kResumed:
      return "resumed";
    case SourceOutcome::kDiscarded:
      return "discarded";
  }
  return "unknown";
}

Result<DecisionRecords> DecisionRecords::open(const std::filesystem::path& folder) {
  std::error_code error;
  const auto parent = folder.parent_path();
  if (!parent.empty()) std::filesystem::create_directories(parent, error);
  if (error) {
    return fail(ErrorKind::kFailed, "cannot make {} for migration records: {}", parent.string(),
                error.message());
  }
  if (::mkdir(folder.c_str(), 0700) != 0 && errno != EEXIST) {
    return fail_errno(ErrorKind::kFailed, "cannot make {} for migration records", folder.string());
  }
  // The folder itself must survive a power cut, too.
  TRY(sync_folder(parent.empty() ? std::filesystem::path(".") : parent));
  return DecisionRecords(folder);
}

Result<DecisionRecords> DecisionRecords::open_default() {
  TRY(const auto folder, default_records_folder());
  TRY(auto records, open(folder));
  // One that stays does no harm.
  if (const auto swept = records.sweep(std::time(nullptr)); !swept) {
    log(LogLevel::kWarning, "{}", swept.error().message());
  }
  return records;
}

Result<Outcome> DecisionRecords::decide(const MigrationId& id, Outcome outcome, std::int64_t now) {
  // What stands needs no room on the disk.
  TRY(const auto before, lookup(id));
  if (before) return before->outcome;
  const auto path = destination_path(folder_, id);
  TRY(const auto file,
      TemporaryFile::create(folder_, fmt::format("id={}\noutcome={}\ntime={}\n", id.to_string(),
                                                 to_string(outcome), now)));
  {
    TRY(const auto lock, lock_folder(folder_, LOCK_EX));
    TRY(const bool first, file.link_as(path));
    if (first) {
      auto synced = sync(lock, folder_);
      if (synced) return outcome;
      // Whether it would survive a power cut is not known, so it may not stand.
      static_cast<void>(::unlink(path.c_str()));
      return fail(std::move(synced).error());
    }
  }
  TRY(const auto standing, lookup(id));
  if (!standing) return fail(ErrorKind::kFailed, "{} went while it was read", path.string());
  return standing->outcome;
}

Result<std::optional<Decision>> DecisionRecords::lookup(const MigrationId& id) const {
  const std::string path = destination_path(folder_, id);
  TRY(const auto lock, lock_folder(folder_, LOCK_SH));
  TRY(const auto fields, read_fields(path));
  if (!fields) return std::optional<Decision>{};
  TRY(const auto decision, parse_decision(*fields, id, path));
  // A writer that was killed may not have come to this.
  TRY(sync(lock, folder_));
  return std::optional(decision);
}

Result<> DecisionRecords::put(const SourceRecord& record) {
  if (!plausible(record)) {
    return fail(ErrorKind::kFailed, "migration {}: guest or destination cannot be recorded",
                record.id.to_string());
  }
  TRY(auto file, TemporaryFile::create(
                     folder_, fmt::format("id={}\nguest={}\ndestination={}\noutcome={}\ntime={}\n",
                                          record.id.to_string(), record.guest, record.destination,
                                          to_string(record.outcome), record.time)));
  TRY(std::move(file).rename_to(source_path(folder_, record.id)));
  return sync_folder(folder_);
}

Result<std::optional<SourceRecord>> DecisionRecords::source(const MigrationId& id) const {
  const std::string path = source_path(folder_, id);
  TRY(const auto fields, read_fields(path));
  if (!fields) return std::optional<SourceRecord>{};
  TRY(auto record, parse_source(*fields, id, path));
  return std::optional(std::move(record));
}

Result<std::size_t> DecisionRecords::sweep(std::int64_t now) {
  constexpr std::int64_t kLife = std::chrono::seconds(kKeep).count();
  std::size_t swept = 0;
  TRY(for_each_file(folder_, [&](const std::filesystem::path& path) {
    const auto extension = path.extension();
    const bool temporary = extension == kTemporaryExtension;
    const bool is_source = extension == kSourceExtension;
    if (!temporary && !is_source && extension != kDestinationExtension) return true;
    struct stat info {};
    if (::lstat(path.c_str(), &info) != 0 || !S_ISREG(info.st_mode)) return true;
    if (now - info.st_mtime < (temporary ? kTemporaryLife : kLife)) return true;
    if (is_source) {
      const auto id = MigrationId::parse(path.stem().string());
      if (!id) return true;
      const auto record = source(id.value());
      if (!record || !record.value()) return true;
      const auto outcome = record.value()->outcome;
      if (outcome == SourceOutcome::kCommitted || outcome == SourceOutcome::kInDoubt) return true;
    }
    if (::unlink(path.c_str()) == 0) ++swept;
    return swept < kMaxSwept;
  }));
  return swept;
}

Result<std::filesystem::path> default_records_folder() {
  constexpr std::string_view kFolder = "vmm/migrations";
  const auto variable = [](const char* name) -> std::filesystem::path {
    const char* value = std::getenv(name);
    return value == nullptr || *value != '/' ? "" : value;
  };
  if (const auto state = variable("XDG_STATE_HOME"); !state.empty()) return state / kFolder;
  if (::geteuid() == 0) return std::filesystem::path("/var/lib") / kFolder;
  const auto home = variable("HOME");
  if (home.empty()) {
    return fail(ErrorKind::kHost,
                "no folder for migration records: neither XDG_STATE_HOME nor HOME is set");
  }
  return home / ".local/state" / kFolder;
}

}  // namespace vmm::migration
