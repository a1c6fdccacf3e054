#include "migration/report.h"

#include <fmt/core.h>

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/value.hpp>
#include <utility>

namespace vmm::migration {
namespace {

using std::chrono::nanoseconds;
using Parts = MigrationReport::Parts;
using Round = MigrationReport::Round;

constexpr double kNsPerMs = 1e6;
constexpr double kNsPerUs = 1e3;
constexpr double kMiB = 1048576;

constexpr std::pair<const char*, nanoseconds Parts::*> kParts[] = {
    {"pause", &Parts::pause},  {"harvest", &Parts::harvest},   {"send", &Parts::send},
    {"save", &Parts::save},    {"transfer", &Parts::transfer}, {"restore", &Parts::restore},
    {"resume", &Parts::resume}};

double in(double unit, nanoseconds time) {
  return static_cast<double>(time.count()) / unit;
}

boost::json::object round_to_json(const Round& round) {
  return {{"n", round.n},
          {"mode", to_string(round.mode)},
          {"dirty_pages", round.dirty_pages},
          {"sent_bytes", round.sent_bytes},
          {"zero_pages", round.zero_pages},
          {"ms", in(kNsPerMs, round.time)},
          {"get_us", in(kNsPerUs, round.get_time)},
          {"clear_us", in(kNsPerUs, round.clear_time)},
          {"throttle_percent", round.throttle_percent}};
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

std::string to_text(const MigrationReport& report) {
  std::string text = fmt::format(
      "{:>5}  {:<4}  {:>12}  {:>10}  {:>10}  {:>10}  {:>9}  {:>9}  {:>10}\n", "round", "log",
      "dirty pages", "zero", "sent MiB", "ms", "get us", "clear us", "throttle %");
  for (const Round& round : report.rounds) {
    text += fmt::format(
        "{:>5}  {:<4}  {:>12}  {:>10}  {:>10.1f}  {:>10.2f}  {:>9.0f}  {:>9.0f}  {:>10}\n", round.n,
        to_string(round.mode), round.dirty_pages, round.zero_pages,
        static_cast<double>(round.sent_bytes) / kMiB, in(kNsPerMs, round.time),
        in(kNsPerUs, round.get_time), in(kNsPerUs, round.clear_time), round.throttle_percent);
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
          {"eta_ms", std::move(eta)},
          {"throttle_percent", progress.throttle_percent}};
}

std::string to_text(const Progress& progress) {
  std::string text = fmt::format(
      "{}: round {} ({}), {:.1f} MiB sent, {:.1f} left, {:.1f} MiB/s, {:.0f} pages/s written",
      progress.phase, progress.round, to_string(progress.mode),
      static_cast<double>(progress.sent_bytes) / kMiB,
      static_cast<double>(progress.remaining_bytes) / kMiB, progress.bytes_per_s / kMiB,
      progress.dirty_pages_per_s);
  if (progress.throttle_percent > 0) {
    text += fmt::format(", vCPUs throttled by {} %", progress.throttle_percent);
  }
  if (progress.eta) {
    text += fmt::format(", {:.1f} s to go", static_cast<double>(progress.eta->count()) / 1000);
  }
  return text;
}

}  // namespace vmm::migration
