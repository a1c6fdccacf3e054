// Starts a program, measures the time until a text appears in its output, then ends it.
//
//   boot_timer TEXT SECONDS GUEST_MIB COMMAND...
//
// Prints "ms=N private_kib=N": milliseconds from just before the start to the text, and the memory
// that only this program uses (Private_Clean + Private_Dirty of /proc/PID/smaps) besides its one
// mapping of GUEST_MIB or more, the guest's memory. Exit status 1 with one line on stderr where the
// text does not come within SECONDS.

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <string>
#include <string_view>

#include "tools/child.h"

namespace vmm::bench {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

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

Result<> run(int argc, char** argv) {
  if (argc < 5)
    return fail(ErrorKind::kUsage, "usage: {} TEXT SECONDS GUEST_MIB COMMAND...", argv[0]);
  TRY(const long seconds, parse_positive(argv[2]));
  TRY(const long guest_mib, parse_positive(argv[3]));
  const auto begin = Clock::now();
  TRY(const Child child, start_child(argv + 4));
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
