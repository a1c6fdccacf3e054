#pragma once

#include <cstdint>
#include <string_view>

#include "base/result.h"
#include "workload/pages.h"

namespace vmm::workload {

enum class Backing {
  k4k,  // small pages only (MADV_NOHUGEPAGE)
  kThp  // transparent huge pages where the kernel has them (MADV_HUGEPAGE)
};

struct Options {
  std::uint64_t size_bytes = 64ULL << 20;  // whole pages, at least one per thread
  double pages_per_s = 0;                  // over all threads; 0: as fast as it can
  unsigned threads = 1;                    // 1–256
  bool pin = false;                        // thread i on the i-th CPU it may run on
  Backing backing = Backing::k4k;
  Fill fill = Fill::kZero;
  std::int64_t interval_ms = 1000;   // between two prints
  std::int64_t tick_ms = 10;         // between two looks at the clock for stalls
  std::int64_t duration_ms = 0;      // 0: until SIGTERM, SIGINT or --passes
  std::int64_t verify_every_ms = 0;  // 0: on SIGUSR1 and at the end only
  std::uint64_t passes = 0;          // stop after so many passes; 0: no limit
  bool wall = false;                 // print the wall clock too
  bool help = false;
};

// The text of --help.
[[nodiscard]] std::string_view usage();

// Reads the command line (argv as main gets it). Errors are ErrorKind::kUsage and name the option
// and its value. Not thread-safe (getopt).
[[nodiscard]] Result<Options> parse_options(int argc, char* const* argv);

// "64M", "64MiB", "1G", "4096": bytes, with binary units. Error on anything else or overflow.
[[nodiscard]] Result<std::uint64_t> parse_bytes(std::string_view text);

// "8000" is pages a second, "32MiB" bytes a second, "max" is 0 (as fast as it can): pages a second.
[[nodiscard]] Result<double> parse_rate(std::string_view text);

}  // namespace vmm::workload
