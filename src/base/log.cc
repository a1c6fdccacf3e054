#include "base/log.h"

#define SPDLOG_FMT_EXTERNAL
#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

namespace vmm {
namespace {

spdlog::level::level_enum to_spdlog(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return spdlog::level::debug;
    case LogLevel::kInfo:
      return spdlog::level::info;
    case LogLevel::kWarning:
      return spdlog::level::warn;
    case LogLevel::kError:
      return spdlog::level::err;
  }
  return spdlog::level::err;
}

void install(spdlog::sink_ptr sink, LogLevel minimum) {
  auto logger = std::make_shared<spdlog::logger>("vmm", std::move(sink));
  logger->set_pattern("vmm: %l: %v");
  logger->set_level(to_spdlog(minimum));
  logger->flush_on(spdlog::level::debug);
  spdlog::set_default_logger(std::move(logger));
}

}  // namespace

void log_to_stderr(LogLevel minimum) {
  install(std::make_shared<spdlog::sinks::stderr_sink_mt>(), minimum);
}

bool log_to_file(const std::string& path, LogLevel minimum) {
  try {
    install(std::make_shared<spdlog::sinks::basic_file_sink_mt>(path), minimum);
  } catch (const spdlog::spdlog_ex&) {
    return false;
  }
  spdlog::default_logger()->set_pattern("%Y-%m-%dT%H:%M:%S.%e %l: %v");
  return true;
}

void log_line(LogLevel level, std::string_view line) {
  spdlog::log(to_spdlog(level), line);
}

}  // namespace vmm
