#pragma once

#include <fmt/core.h>

#include <string>
#include <string_view>
#include <utility>

namespace vmm {

enum class LogLevel { kDebug, kInfo, kWarning, kError };

// Sends log lines to standard error (the default), or to the end of a file. Called once, before
// threads start.
void log_to_stderr(LogLevel minimum);
// Returns false where the file cannot be opened.
[[nodiscard]] bool log_to_file(const std::string& path, LogLevel minimum);

// Writes one line; safe from any thread.
void log_line(LogLevel level, std::string_view line);

template <typename... Args>
void log(LogLevel level, fmt::format_string<Args...> format, Args&&... args) {
  log_line(level, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace vmm
