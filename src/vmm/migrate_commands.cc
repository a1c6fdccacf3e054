#include "vmm/migrate_commands.h"

#include <fmt/format.h>
#include <unistd.h>

#include <boost/json/serialize.hpp>

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <ctime>
#include <filesystem>
#include <optional>
#include <thread>
#include <utility>

#include "base/log.h"
#include "migration/decision_record.h"
#include "migration/report.h"
#include "vmm/control_client.h"
#include "vmm/interrupt.h"
#include "vmm/json_access.h"
#include "vmm/runtime_dir.h"

namespace vmm {
namespace json = boost::json;

namespace {

constexpr ControlClient::Timeout kReplyTimeout{30'000};
constexpr std::chrono::milliseconds kPoll{100};
// A line for a log now and then, where there is no terminal to keep one line up to date on.
constexpr std::chrono::seconds kLineInterval{5};
constexpr std::string_view kInDoubt = "in doubt";  // the phase

// A member that is a string; empty where there is none.
std::string text_of(const json::value& object, std::string_view key) {
  const auto* value = find_member(object, key);
  return value != nullptr && value->is_string() ? std::string(value->get_string()) : std::string();
}

// Shows how far a migration is, on standard error: one line kept up to date on a terminal, else a
// line for each phase and round, and one now and then in those that take long.
class ProgressView {
 public:
  ProgressView() = default;
  ProgressView(const ProgressView&) = delete;
  ProgressView& operator=(const ProgressView&) = delete;
  ~ProgressView() { clear(); }

  void show(const json::value& progress) {
    const auto line = text_of(progress, "line");
    if (terminal_) {
      ::fprintf(stderr, "\r\x1b[K%s", line.c_str());
      shown_ = true;
      return;
    }
    const auto* round = find_member(progress, "round");
    const std::pair stage(text_of(progress, "phase"), round != nullptr ? *round : json::value());
    const auto now = std::chrono::steady_clock::now();
    if (stage == stage_ && now < next_line_) return;
    stage_ = stage;
    next_line_ = now + kLineInterval;
    ::fprintf(stderr, "%s\n", line.c_str());
  }
  // Makes room for other lines.
  void clear() {
    if (shown_) ::fprintf(stderr, "\r\x1b[K");
    shown_ = false;
  }

 private:
  const bool terminal_ = ::isatty(STDERR_FILENO) != 0;
  bool shown_ = false;
  std::pair<std::string, json::value> stage_;  // phase and round
  std::chrono::steady_clock::time_point next_line_;
};

json::object start_parameters(const MigrateOptions& options) {
  json::object params{{"to", options.to},
                      {"dirty_log", options.dirty_log},
                      {"on_timeout", options.on_timeout},
                      {"require_hw", options.require_hw},
                      {"verify", options.verify},
                      {"plaintext", options.connection.plaintext}};
  // The guest's process may be in another folder.
  if (options.connection.tls_dir) {
    params["tls_dir"] = std::filesystem::absolute(*options.connection.tls_dir).string();
  }
  if (options.peer_name) params["peer_name"] = *options.peer_name;
  const auto add = [&params](std::string_view key, const std::optional<std::uint64_t>& value,
                             std::uint64_t unit) {
    if (value) params[key] = *value * unit;
  };
  constexpr std::uint64_t kMiB = 1 << 20;
  add("downtime_limit_ms", options.downtime_limit_ms, 1);
  add("bandwidth", options.bandwidth_mib, kMiB);
  add("channels", options.channels, 1);
  add("max_rounds", options.max_rounds, 1);
  add("max_throttle", options.max_throttle, 1);
  add("timeout_ms", options.timeout_s, 1000);
  add("peer_timeout_ms", options.peer_timeout_s, 1000);
  add("control_run", options.control_run_mib, kMiB);
  return params;
}

// What it means that the guest's process has gone without telling how its migration went: its
// record says how far it had come.
Error explain_end(const Error& error, const std::string& id) {
  const auto record = [&id]() -> Result<std::optional<migration::SourceRecord>> {
    TRY(const auto parsed, migration::MigrationId::parse(id));
    TRY(const auto records, migration::DecisionRecords::open_default());
    return records.source(parsed);
  }();
  using migration::SourceOutcome;
  if (record && record.value()) {
    const auto& [unused_id, guest, to, outcome, unused_time] = *record.value();
    if (outcome == SourceOutcome::kDone) {
      return make_error(ErrorKind::kFailed, "{} has moved to {}, but its process here ended early",
                        guest, to);
    }
    if (outcome == SourceOutcome::kCommitted || outcome == SourceOutcome::kInDoubt) {
      return make_error(ErrorKind::kInDoubt,
                        "the process of {} has ended while it moved; vmm migration status {} at "
                        "{} tells whether it runs there",
                        guest, id, to);
    }
  }
  return error;
}

// Waits for the end of a migration; its report, or why there is none.
Result<json::value> follow(ControlClient& client, const std::string& id,
                           std::chrono::milliseconds doubt_tolerated) {
  ProgressView view;
  auto clear_until = std::chrono::steady_clock::now();  // the last time there was no doubt
  bool cancelled = false;
  for (;;) {
    auto reply = client.call("migration.progress", {}, kReplyTimeout);
    if (!reply) {
      // Other kinds are the end of the migration, as the process tells it.
      const bool gone =
          reply.error().kind() == ErrorKind::kFailed && reply.error().system_errno() != ETIMEDOUT;
      return gone ? Result<json::value>(fail(explain_end(reply.error(), id))) : std::move(reply);
    }
    const auto* progress = find_member(reply.value(), "progress");
    if (progress == nullptr) return reply;
    view.show(*progress);
    const auto now = std::chrono::steady_clock::now();
    if (text_of(*progress, "phase") != kInDoubt) {
      clear_until = now;
    } else if (now - clear_until >= doubt_tolerated) {
      return fail(ErrorKind::kInDoubt,
                  "the destination does not say whether it runs the guest; vmm migration status {} "
                  "there tells, vmm migration resolve {} here decides",
                  id, id);
    }
    if (interrupted() && !cancelled) {
      cancelled = true;
      if (const auto done = client.call("migration.cancel", {}, kReplyTimeout); !done) {
        view.clear();
        log(LogLevel::kWarning, "{}", done.error().message());
      }
    }
    std::this_thread::sleep_for(kPoll);
  }
}

// When the command is over, the guest's name and memory are free here.
void await_departure(ControlClient& client) {
  const auto gone = client.wait_closed(kReplyTimeout);
  if (gone && gone.value()) return;
  log(LogLevel::kWarning, "the guest has moved, and the process that it left has not ended{}",
      gone ? "" : ": " + gone.error().message());
}

// What --json ends with where there is no report. Without an id where it has not begun.
json::object failure(const Error& error, const std::optional<std::string>& id) {
  std::string_view result = "failed";
  if (error.kind() == ErrorKind::kInDoubt) result = "in-doubt";
  if (error.kind() == ErrorKind::kInterrupted) result = "cancelled";
  return {{"result", result},
          {"migration_id", id ? json::value(*id) : json::value()},
          {"error", error.message()}};
}

}  // namespace

Result<> migrate_guest(const MigrateOptions& options) {
  auto client = ControlClient::connect(options.name);
  catch_interrupts();
  const auto started =
      client ? client.value().call("migration.start", start_parameters(options), kReplyTimeout)
             : Result<json::value>(fail(client.error()));
  if (!started) {
    if (options.json) print(json::serialize(failure(started.error(), std::nullopt)) + "\n");
    return fail(started.error());
  }
  const auto id = text_of(started.value(), "migration_id");
  auto end = follow(client.value(), id, options.doubt_tolerated);
  if (!end) {
    if (options.json) print(json::serialize(failure(end.error(), id)) + "\n");
    // Somebody else has cancelled it: this command was not interrupted, and has failed.
    if (end.error().kind() == ErrorKind::kInterrupted && !interrupted()) {
      return fail(ErrorKind::kMigration, "{}", end.error().message());
    }
    return fail(std::move(end).error());
  }
  TRY(const auto* report, member(end.value(), "report"));
  print(options.json ? json::serialize(*report) + "\n" : text_of(end.value(), "summary"));
  if (text_of(*report, "result") == migration::kMigrated) await_departure(client.value());
  return success();
}

Result<> cancel_migration(const std::string& name) {
  TRY(auto client, ControlClient::connect(name));
  TRY(client.call("migration.cancel", {}, kReplyTimeout));
  return success();
}

Result<> print_migration_status(const std::string& text, bool as_json) {
  TRY(const auto id, migration::MigrationId::parse(text));
  TRY(const auto records, migration::DecisionRecords::open_default());
  TRY(const auto decision, records.lookup(id));
  TRY(const auto source, records.source(id));
  if (!decision && !source) {
    return fail(ErrorKind::kFailed,
                "this host has no record of migration {}: its guest has not started here",
                id.to_string());
  }
  json::object object{
      {"migration_id", id.to_string()}, {"destination", nullptr}, {"source", nullptr}};
  std::string lines;
  if (decision) {
    object["destination"] = to_string(decision->outcome);
    lines += fmt::format("came here: {}\n", to_string(decision->outcome));
  }
  if (source) {
    object["source"] = json::object{{"guest", source->guest},
                                    {"to", source->destination},
                                    {"outcome", to_string(source->outcome)}};
    lines += fmt::format("left here: {}, to {}: {}\n", source->guest, source->destination,
                         to_string(source->outcome));
  }
  print(as_json ? json::serialize(object) + "\n" : lines);
  return success();
}

Result<> resolve_migration(const std::string& text, bool resume) {
  TRY(const auto id, migration::MigrationId::parse(text));
  TRY(const auto dir, runtime_dir());
  TRY(const auto names, guest_names(dir));
  std::optional<Error> failure;
  for (const auto& name : names) {
    auto client = ControlClient::connect_path(dir / (name + ".sock"));
    if (!client) continue;  // a socket that a killed guest left behind
    auto resolved = client.value().call(
        "migration.resolve", {{"id", id.to_string()}, {"resume", resume}}, kReplyTimeout);
    if (resolved) return success();
    // A guest that is stuck does not keep the others from being asked.
    auto error = std::move(resolved).error();
    if (error.kind() != ErrorKind::kNoSuchGuest) failure = std::move(error).add_context(name);
  }
  if (failure) return fail(*failure);
  if (resume) {
    return fail(ErrorKind::kNoSuchGuest, "no guest here waits for the outcome of migration {}",
                id.to_string());
  }
  // On the host it went to: what is recorded as discarded never starts there.
  TRY(auto records, migration::DecisionRecords::open_default());
  TRY(const auto outcome, records.decide(id, migration::Outcome::kDiscarded, std::time(nullptr)));
  if (outcome == migration::Outcome::kStarted) {
    return fail(ErrorKind::kFailed, "the guest of migration {} has started here", id.to_string());
  }
  return success();
}

}  // namespace vmm
