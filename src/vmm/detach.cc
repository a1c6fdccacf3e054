#include "vmm/detach.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <string>
#include <vector>

#include "base/log.h"

namespace vmm {
namespace {

// What the child writes: the exit code its error means (0: started), then the message.
constexpr std::byte kStarted{0};

Result<> wait_for_report(const Fd& pipe) {
  std::string report;
  std::array<char, 512> buffer;
  for (;;) {
    const ssize_t n = ::read(pipe.get(), buffer.data(), buffer.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail_errno(ErrorKind::kFailed, "cannot read from the guest's process");
    if (n == 0) break;
    report.append(buffer.data(), static_cast<std::size_t>(n));
  }
  if (report.empty()) return fail(ErrorKind::kFailed, "the guest's process died at its start");
  if (std::byte(report[0]) == kStarted) return success();
  return fail(
      Error(static_cast<ErrorKind>(std::to_integer<int>(std::byte(report[0]))), report.substr(1)));
}

}  // namespace

Result<std::optional<Detached>> Detached::split() {
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) return fail_errno(ErrorKind::kHost, "pipe failed");
  Fd read_end(ends[0]);
  Fd write_end(ends[1]);
  const pid_t child = ::fork();
  if (child < 0) return fail_errno(ErrorKind::kHost, "fork failed");
  if (child != 0) {
    write_end = Fd();
    TRY(wait_for_report(read_end));
    return std::optional<Detached>();
  }
  if (::setsid() < 0) return fail_errno(ErrorKind::kFailed, "setsid failed");
  return std::optional(Detached(std::move(write_end)));
}

Result<> Detached::redirect(const std::filesystem::path& log) const {
  TRY(const auto null, open_file("/dev/null", O_RDWR));
  TRY(const auto log_file, open_file(log.string(), O_WRONLY | O_CREAT | O_APPEND));
  if (::dup2(null.get(), STDIN_FILENO) < 0 || ::dup2(null.get(), STDOUT_FILENO) < 0 ||
      ::dup2(log_file.get(), STDERR_FILENO) < 0) {
    return fail_errno(ErrorKind::kFailed, "cannot redirect standard input and output");
  }
  return success();
}

Result<> Detached::log_to(const std::filesystem::path& log) {
  TRY(redirect(log));
  if (!log_to_file(log, LogLevel::kInfo)) {
    return fail(ErrorKind::kFailed, "cannot open {}", log.string());
  }
  log_ = log;
  return success();
}

void Detached::close_log(const Result<>& result) {
  if (log_.empty()) return;
  if (result) {
    static_cast<void>(::unlink(log_.c_str()));
  } else {
    log(LogLevel::kError, "{}", result.error().message());
  }
}

void Detached::report(std::byte kind, std::string_view message) {
  std::vector<std::byte> bytes{kind};
  const auto text = std::as_bytes(std::span(message));
  bytes.insert(bytes.end(), text.begin(), text.end());
  // A parent that is gone does not want to know.
  static_cast<void>(write_all(pipe_, bytes, "start report"));
  pipe_ = Fd();
}

void Detached::report_started() {
  report(kStarted, "");
}

void Detached::report_failure(const Error& error) {
  if (pipe_.valid()) report(std::byte(static_cast<int>(error.kind())), error.message());
}

Result<> run_detachable(bool detach, const std::function<Result<>(Detached*)>& work) {
  if (!detach) return work(nullptr);
  TRY(auto detached, Detached::split());
  if (!detached) return success();
  const auto result = work(&*detached);
  if (!result) detached->report_failure(result.error());
  detached->close_log(result);
  // In the child nobody is left to print to.
  std::exit(result ? 0 : static_cast<int>(result.error().kind()));
}

}  // namespace vmm
