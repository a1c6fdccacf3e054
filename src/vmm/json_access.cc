#include "vmm/json_access.h"

#include <boost/json/serialize.hpp>

#include <cstdio>

namespace vmm {
namespace json = boost::json;

const json::value* find_member(const json::value& value, std::string_view key) {
  const json::object* object = value.if_object();
  return object == nullptr ? nullptr : object->if_contains(key);
}

Result<const json::value*> member(const json::value& value, std::string_view key) {
  const json::value* found = find_member(value, key);
  if (found == nullptr) return fail(ErrorKind::kFailed, "the guest's reply lacks \"{}\"", key);
  return found;
}

Result<std::string> text(const json::value& value, std::string_view key) {
  TRY(const auto* found, member(value, key));
  return found->is_string() ? std::string(found->get_string()) : json::serialize(*found);
}

Result<std::int64_t> integer(const json::value& value, std::string_view key) {
  TRY(const auto* found, member(value, key));
  boost::system::error_code error;
  const auto number = found->to_number<std::int64_t>(error);
  if (error) return fail(ErrorKind::kFailed, "\"{}\" in the guest's reply is no integer", key);
  return number;
}

Result<double> real(const json::value& value, std::string_view key) {
  TRY(const auto* found, member(value, key));
  boost::system::error_code error;
  const auto number = found->to_number<double>(error);
  if (error) return fail(ErrorKind::kFailed, "\"{}\" in the guest's reply is no number", key);
  return number;
}

void print(std::string_view text) {
  static_cast<void>(::fwrite(text.data(), 1, text.size(), stdout));
}

}  // namespace vmm
