#pragma once

#include <boost/json/value.hpp>

#include <string>
#include <string_view>

#include "base/result.h"

namespace vmm {

// Members of a guest's reply, which comes from this program, but perhaps from another version of
// it. Errors (kFailed) name the member.

[[nodiscard]] Result<const boost::json::value*> member(const boost::json::value& value,
                                                       std::string_view key);
// Null where there is none.
[[nodiscard]] const boost::json::value* find_member(const boost::json::value& value,
                                                    std::string_view key);
// A string as it is, anything else as JSON.
[[nodiscard]] Result<std::string> text(const boost::json::value& value, std::string_view key);
[[nodiscard]] Result<std::int64_t> integer(const boost::json::value& value, std::string_view key);
[[nodiscard]] Result<double> real(const boost::json::value& value, std::string_view key);

// Writes to standard output; what that does not take when closed is nobody's loss.
void print(std::string_view text);

}  // namespace vmm
