// Starts a virtual machine monitor whose guest runs `load` (tests/bench/load) and measures what the
// loads cost on the host.
//
//   load_meter SECONDS GUEST_MIB COMMAND...
//
// Prints for each load "NAME count=N us=N cpu_us=N guest_us=N": what the guest reports, the CPU
// time of all threads of the monitor meanwhile, and how much of that they spent inside the guest
// (counted by the host's timer tick, so only roughly). Ends with "private_kib=N", as in boot_timer,
// at the end of the last load. Exit status 1 with one line on stderr where a guest ends without a
// load or does not end within SECONDS.

#include <dirent.h>
#include <poll.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <memory>
#include <optional>
#include <sstream>
#include <string>
#include <string_view>

#include "tools/child.h"

namespace vmm::bench {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::string_view kBegin = "load: begin ";
constexpr std::string_view kEnd = "load: end ";
constexpr std::size_t kMaxLine = 4096;
constexpr std::size_t kMaxProcFile = 64 << 10;

struct CpuTime {
  long long total_us = 0;
  long long guest_us = 0;
};

// Field `number`, from 1, of a /proc/PID/stat, whose second field may contain anything.
long long stat_field(const std::string& text, int number) {
  std::istringstream words(text.substr(std::min(text.size(), text.rfind(')') + 1)));
  std::string word;
  for (int field = 2; field < number; ++field) words >> word;
  return std::strtoll(word.c_str(), nullptr, 10);
}

// Threads that end meanwhile are not counted: those of a monitor do not while its guest runs.
Result<CpuTime> cpu_time(pid_t pid) {
  constexpr int kGuestTime = 43;
  const std::string folder = fmt::format("/proc/{}/task", pid);
  const std::unique_ptr<DIR, int (*)(DIR*)> tasks(opendir(folder.c_str()), closedir);
  if (!tasks) return fail_errno(ErrorKind::kFailed, "cannot open {}", folder);
  const long long us_per_tick = 1'000'000 / sysconf(_SC_CLK_TCK);
  CpuTime time;
  while (const dirent* task = readdir(tasks.get())) {
    if (task->d_name[0] == '.') continue;
    const std::string path = folder + "/" + task->d_name;
    TRY(const auto schedule, read_file(path + "/schedstat", kMaxProcFile));
    TRY(const auto status, read_file(path + "/stat", kMaxProcFile));
    time.total_us += std::strtoll(schedule.c_str(), nullptr, 10) / 1000;
    time.guest_us += stat_field(status, kGuestTime) * us_per_tick;
  }
  return time;
}

// Lets this process run as soon as it has something to read, on a host with one CPU, too: where it
// came late, the monitor would be further, or gone.
Result<> come_first() {
  sched_param parameters{};
  parameters.sched_priority = 1;
  if (sched_setscheduler(0, SCHED_FIFO, &parameters) != 0) {
    return fail_errno(ErrorKind::kHost, "cannot have a real-time priority");
  }
  return success();
}

// Follows what the guest prints.
class Meter {
 public:
  Meter(pid_t pid, long guest_kib) : pid_(pid), guest_kib_(guest_kib) {}

  [[nodiscard]] Result<> take(std::string_view text) {
    for (const char c : text) {
      // The first byte after a load is the time to look: printing costs the monitor CPU time, too.
      if (begin_ && !end_) {
        TRY(end_, cpu_time(pid_));
        TRY(private_kib_, private_kib(pid_, guest_kib_));
      }
      if (c == '\r') continue;
      if (c != '\n') {
        if (line_.size() < kMaxLine) line_ += c;
        continue;
      }
      TRY(take_line());
      last_line_ = std::exchange(line_, {});
    }
    return success();
  }

  [[nodiscard]] Result<> finish() const {
    if (loads_ == 0) return fail(ErrorKind::kFailed, "no load; last line: {}", last_line_);
    std::printf("private_kib=%ld\n", private_kib_);
    return success();
  }

 private:
  [[nodiscard]] Result<> take_line() {
    if (const auto at = line_.find(kBegin); at != std::string::npos) {
      TRY(begin_, cpu_time(pid_));
      end_.reset();
    } else if (const auto place = line_.find(kEnd); place != std::string::npos && begin_ && end_) {
      std::printf("%s cpu_us=%lld guest_us=%lld\n", line_.c_str() + place + kEnd.size(),
                  end_->total_us - begin_->total_us, end_->guest_us - begin_->guest_us);
      begin_.reset();
      ++loads_;
    }
    return success();
  }

  pid_t pid_;
  long guest_kib_;
  std::string line_;
  std::string last_line_;
  std::optional<CpuTime> begin_;
  std::optional<CpuTime> end_;
  long private_kib_ = 0;
  int loads_ = 0;
};

Result<> run(int argc, char** argv) {
  if (argc < 4) return fail(ErrorKind::kUsage, "usage: {} SECONDS GUEST_MIB COMMAND...", argv[0]);
  TRY(const long seconds, parse_positive(argv[1]));
  TRY(const long guest_mib, parse_positive(argv[2]));
  const auto deadline = Clock::now() + std::chrono::seconds(seconds);
  TRY(Child child, start_child(argv + 3));
  TRY(come_first());
  Meter meter(child.pid(), guest_mib * 1024);
  std::array<char, 4096> buffer{};
  while (true) {
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now()).count();
    pollfd polled{child.output().get(), POLLIN, 0};
    const int ready = left > 0 ? poll(&polled, 1, static_cast<int>(left)) : 0;
    if (ready < 0) return fail_errno(ErrorKind::kFailed, "wait for output");
    if (ready == 0) return fail(ErrorKind::kFailed, "the guest did not end in {} s", seconds);
    const ssize_t length = read(child.output().get(), buffer.data(), buffer.size());
    if (length <= 0) break;
    TRY(meter.take(std::string_view(buffer.data(), static_cast<std::size_t>(length))));
  }
  if (const int status = child.wait(); status != 0) {
    return fail(ErrorKind::kFailed, "{} ended with wait status {:#x}", argv[3], status);
  }
  return meter.finish();
}

}  // namespace
}  // namespace vmm::bench

int main(int argc, char** argv) {
  const auto result = vmm::bench::run(argc, argv);
  if (result) return 0;
  std::fprintf(stderr, "load_meter: %s\n", result.error().message().c_str());
  return result.error().kind() == vmm::ErrorKind::kUsage ? 2 : 1;
}
