#pragma once

#include <boost/outcome/basic_result.hpp>
#include <boost/outcome/policy/terminate.hpp>
#include <boost/outcome/try.hpp>

#include "base/error.h"

namespace vmm {

// Value or Error; ignoring one is a compile error ([[nodiscard]]). Reading the value of a failed
// result is a bug of ours and aborts.
template <typename T = void>
using Result = boost::outcome_v2::basic_result<T, Error, boost::outcome_v2::policy::terminate>;

using boost::outcome_v2::success;

// Returns error from a function that returns any Result.
[[nodiscard]] inline auto fail(Error error) {
  return boost::outcome_v2::failure(std::move(error));
}
template <typename... Args>
[[nodiscard]] auto fail(ErrorKind kind, fmt::format_string<Args...> format, Args&&... args) {
  return fail(make_error(kind, format, std::forward<Args>(args)...));
}
template <typename... Args>
[[nodiscard]] auto fail_errno(ErrorKind kind, fmt::format_string<Args...> format, Args&&... args) {
  return fail(system_error(kind, format, std::forward<Args>(args)...));
}

// Adds context to the error of a failed result; passes a good one through.
template <typename T>
[[nodiscard]] Result<T> with_context(Result<T>&& result, std::string operation) {
  if (!result) return fail(std::move(result).error().add_context(std::move(operation)));
  return std::move(result);
}

}  // namespace vmm

// TRY(auto x, f()) or TRY(f()): goes on with the value, or returns the error to the caller.
#define TRY(...) BOOST_OUTCOME_TRY(__VA_ARGS__)
