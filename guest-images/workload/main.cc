// Dirties a working set of memory at a chosen rate inside a guest, and checks what it wrote.
// See usage() in options.cc, and guest-images/README.md for the printed line.

#include <sched.h>
#include <sys/mman.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <ctime>
#include <latch>
#include <memory>
#include <utility>
#include <vector>

#include "base/mapping.h"
#include "workload/options.h"
#include "workload/report.h"
#include "workload/worker.h"

namespace vmm::workload {
namespace {

constexpr std::size_t kHugePageBytes = 2ULL << 20;
constexpr std::int64_t kNsPerMs = 1'000'000;

using Workers = std::vector<std::unique_ptr<Worker>>;

// CPUs this process may run on, in order.
std::vector<int> allowed_cpus() {
  cpu_set_t set;
  CPU_ZERO(&set);
  std::vector<int> cpus;
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return cpus;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(static_cast<std::size_t>(cpu), &set)) cpus.push_back(cpu);
  }
  return cpus;
}

Result<Mapping> working_set(const Options& options) {
  TRY(Mapping mapping, Mapping::anonymous(options.size_bytes, kHugePageBytes));
  const bool huge = options.backing == Backing::kThp;
  // EINVAL is a kernel without huge pages: small ones are what --backing 4k wants anyway.
  if (madvise(mapping.data(), mapping.size(), huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE) != 0 &&
      (huge || errno != EINVAL)) {
    return fail_errno(ErrorKind::kHost, "madvise of {} bytes for --backing {}", mapping.size(),
                      huge ? "thp" : "4k");
  }
  return mapping;
}

// Shares the pages out; the first threads get one more where it does not come out even.
Workers make_workers(const Options& options, const Mapping& memory) {
  const std::span<std::uint64_t> words(reinterpret_cast<std::uint64_t*>(memory.data()),
                                       memory.size() / sizeof(std::uint64_t));
  const std::vector<int> cpus = options.pin ? allowed_cpus() : std::vector<int>{};
  const std::uint64_t pages = options.size_bytes / kPageBytes;
  Workers workers;
  std::uint64_t first = 0;
  for (unsigned i = 0; i < options.threads; ++i) {
    const std::uint64_t count = pages / options.threads + (i < pages % options.threads ? 1 : 0);
    workers.push_back(std::make_unique<Worker>(
        PageSlice(words.subspan(first * kWordsPerPage, count * kWordsPerPage), first, options.fill),
        options.pages_per_s / options.threads, options.passes,
        cpus.empty() ? -1 : cpus[i % cpus.size()]));
    first += count;
  }
  return workers;
}

// Prints, watches the clock and passes requests on until the writers are to stop.
class Monitor {
 public:
  Monitor(const Options& options, Workers& workers, std::int64_t start_ns)
      : options_(options),
        workers_(workers),
        start_ns_(start_ns),
        last_print_ns_(start_ns),
        written_at_last_print_(workers.size(), 0) {
    prints_.observe(start_ns);
    ticks_.observe(start_ns);
  }

  // `signals`: the blocked signals to take. Returns when told to stop or when all passes are done.
  void run(const sigset_t& signals) {
    const std::int64_t tick_ms = std::min(options_.tick_ms, options_.interval_ms);
    const timespec wait{tick_ms / 1000, tick_ms % 1000 * kNsPerMs};
    std::int64_t next_print = start_ns_ + options_.interval_ms * kNsPerMs;
    std::int64_t next_verify = start_ns_ + options_.verify_every_ms * kNsPerMs;
    while (true) {
      const int signal = sigtimedwait(&signals, nullptr, &wait);
      if (signal == SIGTERM || signal == SIGINT) return;
      const std::int64_t now = monotonic_ns();
      tick_ns_ = std::max(tick_ns_, ticks_.observe(now));
      if (signal == SIGUSR1) request_verify();
      if (options_.verify_every_ms > 0 && now >= next_verify) {
        request_verify();
        next_verify = now + options_.verify_every_ms * kNsPerMs;
      }
      if (now >= next_print) {
        print();
        next_print = std::max(next_print + options_.interval_ms * kNsPerMs, now);
      }
      const bool over =
          options_.duration_ms > 0 && now - start_ns_ >= options_.duration_ms * kNsPerMs;
      if (over || std::ranges::all_of(workers_, [](const auto& w) { return w->finished(); })) {
        return;
      }
    }
  }

  void print() {
    const std::int64_t now = monotonic_ns();
    Line line;
    line.gap_ns = prints_.observe(now);
    line.elapsed_ns = now - start_ns_;
    line.pages = sum(&Worker::pages_written);
    line.passes = smallest(&Worker::passes);
    line.unique = unique_since_last_print();
    if (now > last_print_ns_) {
      line.pages_per_s = static_cast<double>(line.pages - last_pages_) * 1e9 /
                         static_cast<double>(now - last_print_ns_);
    }
    line.longest_gap_ns = prints_.longest_gap_ns();
    line.tick_ns = std::exchange(tick_ns_, 0);
    line.longest_tick_ns = ticks_.longest_gap_ns();
    line.verified = smallest(&Worker::verified);
    line.mismatches = sum(&Worker::mismatches);
    line.backward_steps = backward_steps();
    if (options_.wall) {
      timespec wall{};
      clock_gettime(CLOCK_REALTIME, &wall);
      line.wall_ns = wall.tv_sec * 1'000'000'000 + wall.tv_nsec;
    }
    last_print_ns_ = now;
    last_pages_ = line.pages;
    std::puts(format_line(line).c_str());
    std::fflush(stdout);
  }

  [[nodiscard]] std::uint64_t sum(std::uint64_t (Worker::*count)() const) const {
    std::uint64_t total = 0;
    for (const auto& worker : workers_) total += (*worker.*count)();
    return total;
  }

  [[nodiscard]] std::uint64_t backward_steps() const {
    return prints_.backward_steps() + ticks_.backward_steps() + sum(&Worker::clock_backward_steps);
  }

 private:
  void request_verify() {
    for (auto& worker : workers_) worker->request_verify();
  }

  [[nodiscard]] std::uint64_t unique_since_last_print() {
    std::uint64_t unique = 0;
    for (std::size_t i = 0; i < workers_.size(); ++i) {
      const std::uint64_t written = workers_[i]->pages_written();
      unique += unique_pages(written - written_at_last_print_[i], workers_[i]->pages());
      written_at_last_print_[i] = written;
    }
    return unique;
  }

  [[nodiscard]] std::uint64_t smallest(std::uint64_t (Worker::*count)() const) const {
    std::uint64_t least = (*workers_.front().*count)();
    for (const auto& worker : workers_) least = std::min(least, (*worker.*count)());
    return least;
  }

  const Options& options_;
  Workers& workers_;
  std::int64_t start_ns_;
  std::int64_t last_print_ns_;
  std::uint64_t last_pages_ = 0;
  std::vector<std::uint64_t> written_at_last_print_;  // by worker
  std::int64_t tick_ns_ = 0;                          // longest since the last print
  ClockWatch prints_;
  ClockWatch ticks_;
};

// Whether memory and clock were right.
Result<bool> run(const Options& options) {
  sigset_t signals;
  sigemptyset(&signals);
  for (const int signal : {SIGTERM, SIGINT, SIGUSR1}) sigaddset(&signals, signal);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);

  TRY(const Mapping memory, working_set(options));
  Workers workers = make_workers(options, memory);
  std::latch ready(static_cast<std::ptrdiff_t>(workers.size()) + 1);
  for (auto& worker : workers) worker->start(ready);
  ready.arrive_and_wait();

  Monitor monitor(options, workers, monotonic_ns());
  monitor.run(signals);
  for (auto& worker : workers) worker->request_stop();
  for (auto& worker : workers) worker->join();
  monitor.print();
  for (const auto& worker : workers) {
    if (const auto wrong = worker->first_mismatch()) {
      std::printf("workload: mismatch page=%llu word=%zu expected=0x%llx found=0x%llx\n",
                  static_cast<unsigned long long>(wrong->page), wrong->word,
                  static_cast<unsigned long long>(wrong->expected),
                  static_cast<unsigned long long>(wrong->found));
    }
  }
  const bool good = monitor.sum(&Worker::mismatches) == 0 && monitor.backward_steps() == 0;
  std::printf("workload: done result=%s\n", good ? "ok" : "bad");
  return good;
}

}  // namespace
}  // namespace vmm::workload

// Exit status: 0 memory and clock were right, 1 they were not or memory was missing, 2 usage.
int main(int argc, char** argv) {
  using namespace vmm;
  auto options = workload::parse_options(argc, argv);
  if (!options) {
    std::fprintf(stderr, "workload: %s\n", options.error().message().c_str());
    return 2;
  }
  if (options.value().help) {
    std::fputs(std::string(workload::usage()).c_str(), stdout);
    return 0;
  }
  const auto good = workload::run(options.value());
  if (!good) {
    std::fprintf(stderr, "workload: %s\n", good.error().message().c_str());
    return 1;
  }
  return good.value() ? 0 : 1;
}
