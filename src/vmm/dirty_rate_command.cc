#include "vmm/dirty_rate_command.h"

#include <fmt/format.h>

#include <boost/json/array.hpp>
#include <boost/json/serialize.hpp>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <thread>

#include "vmm/control_client.h"
#include "vmm/interrupt.h"
#include "vmm/json_access.h"

namespace vmm {
namespace json = boost::json;

namespace {

constexpr ControlClient::Timeout kReplyTimeout{30'000};
constexpr std::chrono::milliseconds kLongestPoll{200};
constexpr double kMiB = 1 << 20;
constexpr double kPageBytes = 4096;

// Lets so much time pass; error when that is interrupted.
Result<> wait(std::chrono::milliseconds time) {
  const auto end = std::chrono::steady_clock::now() + time;
  for (;;) {
    if (interrupted()) return fail(ErrorKind::kInterrupted, "interrupted");
    const auto left = end - std::chrono::steady_clock::now();
    if (left <= left.zero()) return success();
    std::this_thread::sleep_for(std::min<std::chrono::nanoseconds>(left, kLongestPoll));
  }
}

// The result of the measurement that is going on, or the progress of a migration.
Result<json::value> wait_for_result(ControlClient& client, const DirtyRateRequest& request) {
  const auto poll = std::min<std::chrono::milliseconds>(
      kLongestPoll, std::chrono::milliseconds(request.period_ms / 4 + 1));
  for (;;) {
    std::this_thread::sleep_for(poll);
    if (interrupted()) {
      TRY(client.call("dirty_rate.stop", {}, kReplyTimeout));
      return fail(ErrorKind::kInterrupted, "interrupted; the guest's writes are no longer logged");
    }
    TRY(auto reply, client.call("dirty_rate.get", {}, kReplyTimeout));
    if (find_member(reply, "migration") != nullptr) return reply;
    TRY(const auto* done, member(reply, "done"));
    if (done->is_bool() && done->get_bool()) {
      reply.as_object().erase("done");
      return reply;
    }
  }
}

Result<> print_rate(const json::value& rate) {
  TRY(const auto interval_ms, integer(rate, "interval_ms"));
  TRY(const auto mode, text(rate, "mode"));
  TRY(const auto measured, real(rate, "measured_ms"));
  TRY(const auto pages_per_s, real(rate, "pages_per_s"));
  TRY(const auto bytes_per_s, real(rate, "bytes_per_s"));
  TRY(const auto unique, real(rate, "unique_pages"));
  TRY(const auto* intervals, member(rate, "intervals"));
  if (!intervals->is_array()) {
    return fail(ErrorKind::kFailed, "\"intervals\" in the guest's reply is no list");
  }
  std::string line = fmt::format(
      "{:.0f} pages/s, {:.1f} MiB/s; {:.1f} MiB written to in {:.0f} ms ({})\n"
      "pages in each {} ms:",
      pages_per_s, bytes_per_s / kMiB, unique * kPageBytes / kMiB, measured,
      mode == "hw" ? "hardware dirty logging" : "write-protect logging", interval_ms);
  for (const auto& pages : intervals->get_array()) {
    line += fmt::format(" {}", json::serialize(pages));
  }
  print(line + "\n");
  return success();
}

Result<> print_migration(const json::value& migration) {
  TRY(const auto line, text(migration, "line"));
  print("migrating: " + line + "\n");
  return success();
}

}  // namespace

Result<> measure_dirty_rate(const DirtyRateRequest& request) {
  TRY(auto client, ControlClient::connect(request.name));
  catch_interrupts();
  json::object params{{"period_ms", request.period_ms}, {"dirty_log", request.dirty_log}};
  if (request.interval_ms) params["interval_ms"] = *request.interval_ms;
  bool migrating = false;
  for (std::uint64_t n = 0; request.count == 0 || n < request.count; ++n) {
    // A measurement takes its period by itself.
    if (migrating) {
      TRY(wait(std::chrono::milliseconds(request.period_ms)));
    }
    TRY(auto reply, client.call("dirty_rate.start", params, kReplyTimeout));
    if (find_member(reply, "migration") == nullptr) {
      TRY(reply, wait_for_result(client, request));
    }
    migrating = find_member(reply, "migration") != nullptr;
    if (request.json) {
      print(json::serialize(reply) + "\n");
    } else if (const auto* migration = find_member(reply, "migration")) {
      TRY(print_migration(*migration));
    } else {
      TRY(print_rate(reply));
    }
    static_cast<void>(::fflush(stdout));
  }
  return success();
}

}  // namespace vmm
