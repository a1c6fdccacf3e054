#include "vmm/balloon_control.h"

#include <boost/json/object.hpp>

#include <array>
#include <optional>
#include <string_view>

namespace vmm {
namespace json = boost::json;

namespace {

constexpr std::uint64_t kMaxPeriod = 86'400;  // seconds

// By VIRTIO_BALLOON_S_*; sizes are in bytes.
constexpr std::array<std::string_view, VIRTIO_BALLOON_S_NR> kNames{
    "swapped_in",   "swapped_out",      "major_faults", "minor_faults",      "free_memory",
    "total_memory", "available_memory", "disk_caches",  "hugetlb_allocated", "hugetlb_failed"};

// A parameter, if it is given: an integer from 0 to max.
Result<std::optional<std::uint64_t>> number(const json::object& params, std::string_view key,
                                            std::uint64_t max) {
  const json::value* value = params.if_contains(key);
  if (value == nullptr) return std::nullopt;
  boost::system::error_code error;
  const auto parsed = value->to_number<std::uint64_t>(error);
  if (error || parsed > max) {
    return fail(ErrorKind::kUsage, "{} is not a number from 0 to {}", key, max);
  }
  return parsed;
}

Result<json::value> describe(Guest& guest) {
  TRY(const auto status, guest.balloon_status());
  json::object statistics;
  for (std::size_t tag = 0; tag < kNames.size(); ++tag) {
    if (status.statistics[tag]) statistics[kNames[tag]] = *status.statistics[tag];
  }
  return json::value{{"target", status.target},
                     {"actual", status.actual},
                     {"statistics", std::move(statistics)},
                     {"statistics_updates", status.statistics_updates}};
}

Result<json::value> set(Guest& guest, std::uint64_t memory, const json::object& params) {
  TRY(const auto target, number(params, "target", memory));
  TRY(const auto period, number(params, "statistics_period", kMaxPeriod));
  if (!target && !period) {
    return fail(ErrorKind::kUsage, "neither target nor statistics_period is given");
  }
  if (target) {
    TRY(guest.set_balloon_target(*target));
  }
  if (period) {
    TRY(guest.set_balloon_period(std::chrono::seconds(*period)));
  }
  return json::value(json::object());
}

}  // namespace

void add_balloon_methods(ControlServer& server, Guest& guest, std::uint64_t memory) {
  server.add_method("balloon.set", [&guest, memory](const json::object& params) {
    return set(guest, memory, params);
  });
  server.add_method("balloon.get", [&guest](const json::object&) { return describe(guest); });
}

}  // namespace vmm
