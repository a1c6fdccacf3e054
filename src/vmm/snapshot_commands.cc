#include "vmm/snapshot_commands.h"

#include <fmt/format.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <system_error>
#include <thread>

#include "base/log.h"
#include "vmm/control_client.h"
#include "vmm/interrupt.h"
#include "vmm/json_access.h"

namespace vmm {
namespace json = boost::json;

namespace {

// The guest's process may be busy making disks durable.
constexpr ControlClient::Timeout kReplyTimeout{30'000};
constexpr std::chrono::milliseconds kPoll{50};

// Keeps one line about how far it is up to date, where standard error is a terminal.
class ProgressLine {
 public:
  ProgressLine() = default;
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;
  ~ProgressLine() {
    if (shown_) ::fprintf(stderr, "\r\x1b[K");
  }

  [[nodiscard]] Result<> show(const json::value& progress) {
    TRY(const auto done, integer(progress, "done_bytes"));
    TRY(const auto all, integer(progress, "bytes"));
    if (!terminal_) return success();
    const auto line = fmt::format("\r\x1b[Ksnapshot: {} of {} MiB", done >> 20, all >> 20);
    ::fprintf(stderr, "%s", line.c_str());
    shown_ = true;
    return success();
  }

 private:
  const bool terminal_ = ::isatty(STDERR_FILENO) != 0;
  bool shown_ = false;
};

// Waits for the end of the snapshot; what is said about it.
Result<std::string> follow(ControlClient& client) {
  ProgressLine line;
  bool cancelled = false;
  for (;;) {
    TRY(const auto reply, client.call("snapshot.progress", {}, kReplyTimeout));
    const auto* progress = find_member(reply, "progress");
    if (progress == nullptr) return text(reply, "summary");
    TRY(line.show(*progress));
    if (interrupted() && !cancelled) {
      cancelled = true;
      // One that has ended by now has its result told next.
      static_cast<void>(client.call("snapshot.cancel", {}, kReplyTimeout));
    }
    std::this_thread::sleep_for(kPoll);
  }
}

}  // namespace

Result<> snapshot_guest(const SnapshotOptions& options) {
  std::error_code error;
  const auto path = std::filesystem::absolute(options.to, error);
  if (error) {
    return fail(ErrorKind::kUsage, "{}: {}", options.to.string(), error.message());
  }
  TRY(auto client, ControlClient::connect(options.name));
  catch_interrupts();
  TRY(client.call("snapshot.start", {{"to", path.string()}, {"stop", options.stop}},
                  kReplyTimeout));
  TRY(const auto summary, follow(client));
  print(summary);
  if (options.stop) {
    TRY(const auto ended, client.wait_closed(kReplyTimeout));
    if (!ended) return fail(ErrorKind::kFailed, "the guest's process has not ended");
  }
  return success();
}

}  // namespace vmm
