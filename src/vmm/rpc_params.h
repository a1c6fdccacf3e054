#pragma once

#include <boost/json/object.hpp>

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "memory/dirty_log.h"

namespace vmm {

// Parameters of control methods. Absent (or null) ones give nothing; errors (kUsage) name the
// parameter.

[[nodiscard]] Result<std::optional<std::uint64_t>> optional_number(
    const boost::json::object& params, std::string_view key);
[[nodiscard]] Result<std::optional<std::string>> optional_text(const boost::json::object& params,
                                                               std::string_view key);
// Absent is false.
[[nodiscard]] Result<bool> flag(const boost::json::object& params, std::string_view key);
// A number of milliseconds, up to 366 days.
[[nodiscard]] Result<std::optional<std::chrono::milliseconds>> optional_ms(
    const boost::json::object& params, std::string_view key);

// "dirty_log": "hw" or "wp"; nothing for "auto", too.
[[nodiscard]] Result<std::optional<DirtyLogMode>> optional_log_mode(
    const boost::json::object& params);

}  // namespace vmm
