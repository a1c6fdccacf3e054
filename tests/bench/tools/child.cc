#include "tools/child.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <charconv>
#include <csignal>
#include <sstream>
#include <string>

namespace vmm::bench {

Child::~Child() {
  if (pid_ <= 0) return;
  kill(pid_, SIGKILL);
  waitpid(pid_, nullptr, 0);
}

int Child::wait() {
  int status = 0;
  waitpid(std::exchange(pid_, -1), &status, 0);
  return status;
}

Result<Child> start_child(char** argv) {
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

Result<long> private_kib(pid_t pid, long guest_kib) {
  constexpr std::size_t kMaxBytes = 16 << 20;
  TRY(const std::string text, read_file(fmt::format("/proc/{}/smaps", pid), kMaxBytes));
  std::istringstream lines(text);
  long total = 0;
  bool is_guest = false;
  int guests = 0;
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::string key;
    long value = 0;
    words >> key >> value;
    if (key == "Size:") {
      is_guest = value >= guest_kib;
      guests += is_guest ? 1 : 0;
    }
    const bool counted = key == "Private_Clean:" || key == "Private_Dirty:";
    if (counted && !is_guest) total += value;
  }
  if (guests != 1) {
    return fail(ErrorKind::kFailed, "{} mappings of at least {} KiB in process {}, not one", guests,
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

}  // namespace vmm::bench
