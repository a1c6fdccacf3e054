#include "vmm/rpc_params.h"

#include <boost/json/value.hpp>

namespace vmm {
namespace json = boost::json;

namespace {

constexpr std::uint64_t kMaxMs = 366ULL * 24 * 3600 * 1000;

const json::value* find(const json::object& params, std::string_view key) {
  const auto* value = params.if_contains(key);
  return value == nullptr || value->is_null() ? nullptr : value;
}

}  // namespace

Result<std::optional<std::uint64_t>> optional_number(const json::object& params,
                                                     std::string_view key) {
  const auto* value = find(params, key);
  if (value == nullptr) return std::optional<std::uint64_t>();
  boost::system::error_code error;
  const auto number = value->to_number<std::uint64_t>(error);
  if (error) return fail(ErrorKind::kUsage, "{} is not a number of 0 or more", key);
  return std::optional(number);
}

Result<std::optional<std::string>> optional_text(const json::object& params, std::string_view key) {
  const auto* value = find(params, key);
  if (value == nullptr) return std::optional<std::string>();
  if (!value->is_string()) return fail(ErrorKind::kUsage, "{} is not a string", key);
  return std::optional(std::string(value->get_string()));
}

Result<bool> flag(const json::object& params, std::string_view key) {
  const auto* value = find(params, key);
  if (value == nullptr) return false;
  if (!value->is_bool()) return fail(ErrorKind::kUsage, "{} is neither true nor false", key);
  return value->get_bool();
}

Result<std::optional<std::chrono::milliseconds>> optional_ms(const json::object& params,
                                                             std::string_view key) {
  TRY(const auto number, optional_number(params, key));
  if (!number) return std::optional<std::chrono::milliseconds>();
  if (*number > kMaxMs) return fail(ErrorKind::kUsage, "{} is more than 366 days", key);
  return std::optional(std::chrono::milliseconds(*number));
}

Result<std::optional<DirtyLogMode>> optional_log_mode(const json::object& params) {
  TRY(const auto text, optional_text(params, "dirty_log"));
  if (!text || *text == "auto") return std::optional<DirtyLogMode>();
  for (const auto mode : {DirtyLogMode::kHardware, DirtyLogMode::kWriteProtect}) {
    if (*text == to_string(mode)) return std::optional(mode);
  }
  return fail(ErrorKind::kUsage, "dirty_log is \"{}\", and not auto, hw or wp", *text);
}

}  // namespace vmm
