#include "migration/report.h"

#include <fmt/core.h>

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/value.hpp>
#include <cmath>
#include <concepts>
#include <utility>

namespace vmm::migration {
namespace {

using std::chrono::nanoseconds;
using Parts = MigrationReport::Parts;
using Round = MigrationReport::Round;

constexpr double kNsPerMs = 1e6;
constexpr double kNsPerUs = 1e3;
// Beyond any time that a report could have: what a double holds exactly in nanoseconds.
constexpr double kMostNs = 9e15;
constexpr double kMiB = 1048576;
constexpr std::size_t kMaxRounds = 10'000;

constexpr std::pair<const char*, nanoseconds Parts::*> kParts[] = {
    {"pause", &Parts::pause},  {"harvest", &Parts::harvest},   {"send", &Parts::send},
    {"save", &Parts::save},    {"transfer", &Parts::transfer}, {"restore", &Parts::restore},
    {"resume", &Parts::resume}};

double in(double unit, nanoseconds time) {
  return static_cast<double>(time.count()) / unit;
}

// Reads members of an object that somebody else has written.
class Members {
 public:
  explicit Members(const boost::json::object& object) : object_(object) {}

  [[nodiscard]] Result<const boost::json::value*> get(const char* name) const {
    const auto* value = object_.if_contains(name);
    if (value == nullptr) return fail(ErrorKind::kFailed, "report: {} is missing", name);
    return value;
  }
  [[nodiscard]] Result<std::string> string(const char* name) const {
    TRY(const auto* value, get(name));
    if (const auto* text = value->if_string()) return std::string(text->data(), text->size());
    return fail(ErrorKind::kFailed, "report: {} is not a string", name);
  }
  template <std::unsigned_integral T>
  [[nodiscard]] Result<T> count(const char* name) const {
    TRY(const auto* value, get(name));
    boost::system::error_code error;
    const auto number = value->to_number<T>(error);
    if (error) return fail(ErrorKind::kFailed, "report: {} is not a count", name);
    return number;
  }
  [[nodiscard]] Result<double> number(const char* name) const {
    TRY(const auto* value, get(name));
    boost::system::error_code error;
    const auto number = value->to_number<double>(error);
    if (error || !(number >= 0) || !std::isfinite(number)) {
      return fail(ErrorKind::kFailed, "report: {} is not a number from 0", name);
    }
    return number;
  }
  [[nodiscard]] Result<nanoseconds> time(const char* name, double unit) const {
    TRY(const auto value, number(name));
    if (value > kMostNs / unit) return fail(ErrorKind::kFailed, "report: {} is too long", name);
    return nanoseconds(std::llround(value * unit));
  }
  [[nodiscard]] Result<DirtyLogMode> mode() const {
    TRY(const auto text, string("mode"));
    for (const auto mode : {DirtyLogMode::kHardware, DirtyLogMode::kWriteProtect}) {
      if (text == to_string(mode)) return mode;
    }
    return fail(ErrorKind::kFailed, "report: mode is neither hw nor wp");
  }
  [[nodiscard]] Result<Members> object(const char* name) const {
    TRY(const auto* value, get(name));
    if (const auto* object = value->if_object()) return Members(*object);
    return fail(ErrorKind::kFailed, "report: {} is not an object", name);
  }

 private:
  const boost::json::object& object_;
};

boost::json::object round_to_json(const Round& round) {
  return {{"n", round.n},
          {"mode", to_string(round.mode)},
          {"dirty_pages", round.dirty_pages},
          {"sent_bytes", round.sent_bytes},
          {"zero_pages", round.zero_pages},
          {"ms", in(kNsPerMs, round.time)},
          {"get_us", in(kNsPerUs, round.get_time)},
          {"clear_us", in(kNsPerUs, round.clear_time)}};
}

Result<Round> round_from_json(const boost::json::value& value) {
  if (!value.is_object()) return fail(ErrorKind::kFailed, "report: a round is not an object");
  const Members members(value.get_object());
  Round round;
  TRY(round.n, members.count<std::uint32_t>("n"));
  TRY(round.mode, members.mode());
  TRY(round.dirty_pages, members.count<std::uint64_t>("dirty_pages"));
  TRY(round.sent_bytes, members.count<std::uint64_t>("sent_bytes"));
  TRY(round.zero_pages, members.count<std::uint64_t>("zero_pages"));
  TRY(round.time, members.time("ms", kNsPerMs));
  TRY(round.get_time, members.time("get_us", kNsPerUs));
  TRY(round.clear_time, members.time("clear_us", kNsPerUs));
  return round;
}

Result<std::vector<Round>> rounds_from_json(const Members& members) {
  TRY(const auto* value, members.get("rounds"));
  const auto* list = value->if_array();
  if (list == nullptr || list->size() > kMaxRounds) {
    return fail(ErrorKind::kFailed, "report: rounds is not a list of at most {}", kMaxRounds);
  }
  std::vector<Round> rounds;
  for (const auto& entry : *list) {
    TRY(const auto round, round_from_json(entry));
    rounds.push_back(round);
  }
  return rounds;
}

Result<std::optional<MigrationReport::Verify>> verify_from_json(const Members& members) {
  TRY(const auto* value, members.get("verify"));
  if (value->is_null()) return std::optional<MigrationReport::Verify>{};
  TRY(const auto object, members.object("verify"));
  MigrationReport::Verify verify;
  TRY(verify.source, object.string("source"));
  TRY(verify.destination, object.string("destination"));
  TRY(verify.time, object.time("ms", kNsPerMs));
  return std::optional(std::move(verify));
}

}  // namespace

boost::json::object to_json(const MigrationReport& report) {
  boost::json::array rounds;
  for (const Round& round : report.rounds) rounds.emplace_back(round_to_json(round));
  boost::json::object parts;
  for (const auto& [name, part] : kParts) parts[name] = in(kNsPerMs, report.parts.*part);
  boost::json::value verify;
  if (report.verify) {
    verify = {{"source", report.verify->source},
              {"destination", report.verify->destination},
              {"ms", in(kNsPerMs, report.verify->time)}};
  }
  return {{"result", report.result},
          {"migration_id", report.id.to_string()},
          {"rounds", std::move(rounds)},
          {"total_ms", in(kNsPerMs, report.total)},
          {"downtime_ms", in(kNsPerMs, report.downtime)},
          {"downtime", std::move(parts)},
          {"verify", std::move(verify)}};
}

Result<MigrationReport> report_from_json(const boost::json::object& object) {
  const Members members(object);
  MigrationReport report;
  TRY(report.result, members.string("result"));
  TRY(const auto id, members.string("migration_id"));
  TRY(report.id, MigrationId::parse(id));
  TRY(report.rounds, rounds_from_json(members));
  TRY(report.total, members.time("total_ms", kNsPerMs));
  TRY(report.downtime, members.time("downtime_ms", kNsPerMs));
  TRY(const auto parts, members.object("downtime"));
  for (const auto& [name, part] : kParts) {
    TRY(report.parts.*part, parts.time(name, kNsPerMs));
  }
  TRY(report.verify, verify_from_json(members));
  return report;
}

std::string to_text(const MigrationReport& report) {
  std::string text =
      fmt::format("{:>5}  {:<4}  {:>12}  {:>10}  {:>10}  {:>10}  {:>9}  {:>9}\n", "round", "log",
                  "dirty pages", "zero", "sent MiB", "ms", "get us", "clear us");
  for (const Round& round : report.rounds) {
    text += fmt::format("{:>5}  {:<4}  {:>12}  {:>10}  {:>10.1f}  {:>10.2f}  {:>9.0f}  {:>9.0f}\n",
                        round.n, to_string(round.mode), round.dirty_pages, round.zero_pages,
                        static_cast<double>(round.sent_bytes) / kMiB, in(kNsPerMs, round.time),
                        in(kNsPerUs, round.get_time), in(kNsPerUs, round.clear_time));
  }
  text += fmt::format("{}: {:.1f} ms in all, downtime {:.2f} ms", report.result,
                      in(kNsPerMs, report.total), in(kNsPerMs, report.downtime));
  const char* separator = " (";
  for (const auto& [name, part] : kParts) {
    text += fmt::format("{}{} {:.2f}", separator, name, in(kNsPerMs, report.parts.*part));
    separator = ", ";
  }
  text += ")\n";
  if (report.verify) {
    text += fmt::format(
        "memory {}: SHA-256 {} here, {} there, {:.1f} ms\n",
        report.verify->source == report.verify->destination ? "is the same" : "DIFFERS",
        report.verify->source, report.verify->destination, in(kNsPerMs, report.verify->time));
  }
  return text + fmt::format("migration {}\n", report.id.to_string());
}

boost::json::object to_json(const Progress& progress) {
  boost::json::value eta;
  if (progress.eta) eta = progress.eta->count();
  return {{"phase", progress.phase},
          {"round", progress.round},
          {"mode", to_string(progress.mode)},
          {"sent_bytes", progress.sent_bytes},
          {"remaining_bytes", progress.remaining_bytes},
          {"dirty_pages_per_s", progress.dirty_pages_per_s},
          {"bytes_per_s", progress.bytes_per_s},
          {"eta_ms", std::move(eta)}};
}

Result<Progress> progress_from_json(const boost::json::object& object) {
  const Members members(object);
  Progress progress;
  TRY(progress.phase, members.string("phase"));
  TRY(progress.round, members.count<std::uint32_t>("round"));
  TRY(progress.mode, members.mode());
  TRY(progress.sent_bytes, members.count<std::uint64_t>("sent_bytes"));
  TRY(progress.remaining_bytes, members.count<std::uint64_t>("remaining_bytes"));
  TRY(progress.dirty_pages_per_s, members.number("dirty_pages_per_s"));
  TRY(progress.bytes_per_s, members.number("bytes_per_s"));
  TRY(const auto* eta, members.get("eta_ms"));
  if (!eta->is_null()) {
    TRY(const auto time, members.time("eta_ms", kNsPerMs));
    progress.eta = std::chrono::duration_cast<std::chrono::milliseconds>(time);
  }
  return progress;
}

std::string to_text(const Progress& progress) {
  std::string text = fmt::format(
      "{}: round {} ({}), {:.1f} MiB sent, {:.1f} left, {:.1f} MiB/s, {:.0f} pages/s written",
      progress.phase, progress.round, to_string(progress.mode),
      static_cast<double>(progress.sent_bytes) / kMiB,
      static_cast<double>(progress.remaining_bytes) / kMiB, progress.bytes_per_s / kMiB,
      progress.dirty_pages_per_s);
  if (progress.eta) {
    text += fmt::format(", {:.1f} s to go", static_cast<double>(progress.eta->count()) / 1000);
  }
  return text;
}

}  // namespace vmm::migration
