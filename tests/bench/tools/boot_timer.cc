// Starts a program, measures the time until a text appears in its output, then ends it.
//
//   boot_timer TEXT SECONDS GUEST_MIB COMMAND...
//
// Prints "ms=N private_kib=N": milliseconds from just before the start to the text, and the memory
// that only this program uses (Private_Clean + Private_Dirty of /proc/PID/smaps) besides its one
// mapping of GUEST_MIB, the guest's memory. Exit status 1 with one line on stderr where the text
// does not come within SECONDS.

#include <fcntl.h>
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <charconv>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <sstream>
#include <string>
#include <string_view>

#include "base/fd.h"

namespace vmm::bench {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

// A child process; killed and reaped when it goes.
class Child {
 public:
  Child(pid_t pid, Fd output) : pid_(pid), output_(std::move(output)) {}
  Child(Child&& other) noexcept
      : pid_(std::exchange(other.pid_, -1)), output_(std::move(other.output_)) {}
  Child& operator=(Child&&) = delete;
  ~Child() {
    if (pid_ <= 0) return;
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }

  [[nodiscard]] pid_t pid() const { return pid_; }
  [[nodiscard]] const Fd& output() const { return output_; }

 private:
  pid_t pid_;
  Fd output_;
};

Result<Child> start(char** argv) {
  std::array<int, 2> ends{};
  if (pipe2(ends.data(), O_CLOEXEC) != 0) return fail_errno(ErrorKind::kFailed, "make a pipe");
  Fd read_end(ends[0]);
  const Fd write_end(ends[1]);
  const pid_t pid = fork();
  if (pid < 0) return fail_errno(ErrorKind::kFailed, "fork for {}", argv[0]);
  if (pid == 0) {
    const int null = open("/dev/null", O_RDWR);
    dup2(null, 0);
    dup2(write_end.get(), 1);
    dup2(write_end.get(), 2);
    execv(argv[0], argv);
    _exit(127);
  }
  return Child(pid, std::move(read_end));
}

// Waits until the output contains text.
Result<> wait_for(const Child& child, std::string_view text, Clock::time_point deadline) {
  std::string seen;
  std::array<char, 4096> buffer{};
  while (seen.find(text) == std::string::npos) {
    const auto left = std::chrono::duration_cast<milliseconds>(deadline - Clock::now()).count();
    pollfd polled{child.output().get(), POLLIN, 0};
    const int ready = left > 0 ? poll(&polled, 1, static_cast<int>(left)) : 0;
    if (ready < 0) return fail_errno(ErrorKind::kFailed, "wait for output");
    const std::string_view tail =
        std::string_view(seen).substr(seen.size() - std::min<std::size_t>(seen.size(), 300));
    if (ready == 0)
      return fail(ErrorKind::kFailed, "'{}' did not come; last output: {}", text, tail);
    const ssize_t length = read(child.output().get(), buffer.data(), buffer.size());
    if (length <= 0) {
      return fail(ErrorKind::kFailed, "the program ended before '{}'; last output: {}", text, tail);
    }
    seen.append(buffer.data(), static_cast<std::size_t>(length));
  }
  return success();
}

// Private memory in KiB, the mapping of guest_kib left out.
Result<long> private_kib(pid_t pid, long guest_kib) {
  constexpr std::size_t kMaxBytes = 16 << 20;
  TRY(const std::string text, read_file(fmt::format("/proc/{}/smaps", pid), kMaxBytes));
  std::istringstream lines(text);
  long total = 0;
  long size = 0;
  int guests = 0;
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::string key;
    long value = 0;
    words >> key >> value;
    if (key == "Size:") {
      size = value;
      guests += size == guest_kib ? 1 : 0;
    }
    const bool counted = key == "Private_Clean:" || key == "Private_Dirty:";
    if (counted && size != guest_kib) total += value;
  }
  if (guests != 1) {
    return fail(ErrorKind::kFailed, "{} mappings of {} KiB in process {}, not one", guests,
                guest_kib, pid);
  }
  return total;
}

Result<long> parse_positive(std::string_view text) {
  long value = 0;
  const auto [end, status] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (status != std::errc{} || end != text.data() + text.size() || value <= 0) {
    return fail(ErrorKind::kUsage, "'{}' is not a positive number", text);
  }
  return value;
}

Result<> run(int argc, char** argv) {
  if (argc < 5)
    return fail(ErrorKind::kUsage, "usage: {} TEXT SECONDS GUEST_MIB COMMAND...", argv[0]);
  TRY(const long seconds, parse_positive(argv[2]));
  TRY(const long guest_mib, parse_positive(argv[3]));
  const auto begin = Clock::now();
  TRY(const Child child, start(argv + 4));
  TRY(wait_for(child, argv[1], begin + std::chrono::seconds(seconds)));
  const auto elapsed = std::chrono::duration<double, std::milli>(Clock::now() - begin).count();
  TRY(const long memory, private_kib(child.pid(), guest_mib * 1024));
  std::printf("ms=%.1f private_kib=%ld\n", elapsed, memory);
  return success();
}

}  // namespace
}  // namespace vmm::bench

int main(int argc, char** argv) {
  const auto result = vmm::bench::run(argc, argv);
  if (result) return 0;
  std::fprintf(stderr, "boot_timer: %s\n", result.error().message().c_str());
  return result.error().kind() == vmm::ErrorKind::kUsage ? 2 : 1;
}
