#include "workload/options.h"

#include <getopt.h>

#include <array>
#include <charconv>
#include <limits>

namespace vmm::workload {
namespace {

constexpr std::uint64_t kMaxMilliseconds = 1'000'000'000'000;

Result<std::uint64_t> parse_number(std::string_view text, std::uint64_t lowest,
                                   std::uint64_t highest) {
  std::uint64_t value = 0;
  const auto [end, status] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (status != std::errc{} || end != text.data() + text.size()) {
    return fail(ErrorKind::kUsage, "'{}' is not a number", text);
  }
  if (value < lowest || value > highest) {
    return fail(ErrorKind::kUsage, "{} is not between {} and {}", value, lowest, highest);
  }
  return value;
}

Result<std::int64_t> parse_ms(std::string_view text, std::uint64_t lowest) {
  TRY(const std::uint64_t value, parse_number(text, lowest, kMaxMilliseconds));
  return static_cast<std::int64_t>(value);
}

// Seconds, with a fraction where wanted, in milliseconds.
Result<std::int64_t> parse_seconds(std::string_view text) {
  double value = 0;
  const auto [end, status] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (status != std::errc{} || end != text.data() + text.size() || !(value > 0) || value > 1e9) {
    return fail(ErrorKind::kUsage, "'{}' is not a number of seconds", text);
  }
  return static_cast<std::int64_t>(value * 1000);
}

Result<Backing> parse_backing(std::string_view text) {
  if (text == "4k") return Backing::k4k;
  if (text == "thp") return Backing::kThp;
  return fail(ErrorKind::kUsage, "'{}' is neither 4k nor thp", text);
}

Result<Fill> parse_fill(std::string_view text) {
  if (text == "zero") return Fill::kZero;
  if (text == "pattern") return Fill::kPattern;
  return fail(ErrorKind::kUsage, "'{}' is neither zero nor pattern", text);
}

// Stores the value of one option.
using Apply = Result<> (*)(Options&, std::string_view);

struct Entry {
  const char* name;
  int argument;  // no_argument or required_argument
  Apply apply;
};

const std::array kEntries{
    Entry{"size", required_argument,
          [](Options& o, std::string_view text) -> Result<> {
            TRY(o.size_bytes, parse_bytes(text));
            return success();
          }},
    Entry{"rate", required_argument,
          [](Options& o, std::string_view text) -> Result<> {
            TRY(o.pages_per_s, parse_rate(text));
            return success();
          }},
    Entry{"threads", required_argument,
          [](Options& o, std::string_view text) -> Result<> {
            TRY(const std::uint64_t threads, parse_number(text, 1, 256));
            o.threads = static_cast<unsigned>(threads);
            return success();
          }},
    Entry{"pin", no_argument,
          [](Options& o, std::string_view) -> Result<> {
            o.pin = true;
            return success();
          }},
    Entry{"backing", required_argument,
          [](Options& o, std::string_view text) -> Result<> {
            TRY(o.backing, parse_backing(text));
            return success();
          }},
    Entry{"fill", required_argument,
          [](Options& o, std::string_view text) -> Result<> {
            TRY(o.fill, parse_fill(text));
            return success();
          }},
    Entry{"interval", required_argument,
          [](Options& o, std::string_view text) -> Result<> {
            TRY(o.interval_ms, parse_ms(text, 1));
            return success();
          }},
    Entry{"tick", required_argument,
          [](Options& o, std::string_view text) -> Result<> {
            TRY(o.tick_ms, parse_ms(text, 1));
            return success();
          }},
    Entry{"duration", required_argument,
          [](Options& o, std::string_view text) -> Result<> {
            TRY(o.duration_ms, parse_seconds(text));
            return success();
          }},
    Entry{"verify-every", required_argument,
          [](Options& o, std::string_view text) -> Result<> {
            TRY(o.verify_every_ms, parse_ms(text, 1));
            return success();
          }},
    Entry{"passes", required_argument,
          [](Options& o, std::string_view text) -> Result<> {
            TRY(o.passes, parse_number(text, 1, std::numeric_limits<std::uint32_t>::max()));
            return success();
          }},
    Entry{"wall", no_argument,
          [](Options& o, std::string_view) -> Result<> {
            o.wall = true;
            return success();
          }},
    Entry{"help", no_argument,
          [](Options& o, std::string_view) -> Result<> {
            o.help = true;
            return success();
          }},
};

// The same table as getopt_long wants it, ended by an empty entry.
std::array<option, kEntries.size() + 1> long_options() {
  std::array<option, kEntries.size() + 1> table{};
  for (std::size_t i = 0; i < kEntries.size(); ++i) {
    table[i] = {kEntries[i].name, kEntries[i].argument, nullptr, 0};
  }
  return table;
}

Result<> check(const Options& options) {
  if (options.size_bytes % kPageBytes != 0) {
    return fail(ErrorKind::kUsage, "--size {}: not a multiple of {}", options.size_bytes,
                kPageBytes);
  }
  if (options.size_bytes / kPageBytes < options.threads) {
    return fail(ErrorKind::kUsage, "--size {}: less than a page for each of {} threads",
                options.size_bytes, options.threads);
  }
  return success();
}

}  // namespace

std::string_view usage() {
  return "usage: workload [OPTION...]\n"
         "Writes one 8-byte stamp into each 4 KiB page of a working set, pages in order, over and\n"
         "over, and prints one line of key=value a time.\n"
         "  --size BYTES        working set, with K, M or G (64M)\n"
         "  --rate RATE         pages a second, or bytes a second with K, M or G (max)\n"
         "  --threads N         writers, each with its share of the working set (1)\n"
         "  --pin               put writer i on the i-th CPU\n"
         "  --backing 4k|thp    small or transparent huge pages (4k)\n"
         "  --fill zero|pattern what pages hold besides the stamp (zero)\n"
         "  --interval MS       between two prints (1000)\n"
         "  --tick MS           between two looks at the clock for stalls (10)\n"
         "  --duration S        stop after so many seconds\n"
         "  --passes N          stop after so many passes\n"
         "  --verify-every MS   verify the memory this often, besides SIGUSR1 and at the end\n"
         "  --wall              print the wall clock too\n";
}

Result<std::uint64_t> parse_bytes(std::string_view text) {
  std::uint64_t value = 0;
  const auto [end, status] = std::from_chars(text.data(), text.data() + text.size(), value);
  std::string_view unit(end, static_cast<std::size_t>(text.data() + text.size() - end));
  if (status != std::errc{} || value == 0) {
    return fail(ErrorKind::kUsage, "'{}' is not a size such as 64M", text);
  }
  unsigned shift = 0;
  if (!unit.empty()) {
    const std::size_t place = std::string_view("KMGT").find(unit.front());
    const std::string_view rest = unit.substr(1);
    if (place == std::string_view::npos || !(rest.empty() || rest == "iB")) {
      return fail(ErrorKind::kUsage, "'{}' is not a size such as 64M", text);
    }
    shift = 10 * (static_cast<unsigned>(place) + 1);
  }
  if (value > std::numeric_limits<std::uint64_t>::max() >> shift) {
    return fail(ErrorKind::kUsage, "'{}' is too large", text);
  }
  return value << shift;
}

Result<double> parse_rate(std::string_view text) {
  if (text == "max") return 0.0;
  TRY(const std::uint64_t value, parse_bytes(text));
  const bool plain = text.find_first_not_of("0123456789") == std::string_view::npos;
  const double rate = static_cast<double>(value);
  return plain ? rate : rate / static_cast<double>(kPageBytes);
}

Result<Options> parse_options(int argc, char* const* argv) {
  Options options;
  optind = 0;  // glibc: start over, so that it can be called more than once
  opterr = 0;  // the error below is the only message
  const auto table = long_options();
  int index = 0;
  while (true) {
    const int which = getopt_long(argc, argv, "", table.data(), &index);
    if (which == -1) break;
    if (which == '?') {
      return fail(ErrorKind::kUsage, "{}: unknown option or missing value (see --help)",
                  argv[optind - 1]);
    }
    const Entry& entry = kEntries[static_cast<std::size_t>(index)];
    auto applied = entry.apply(options, optarg != nullptr ? optarg : "");
    if (!applied) {
      return fail(std::move(applied).error().add_context(fmt::format("--{}", entry.name)));
    }
  }
  if (optind < argc) return fail(ErrorKind::kUsage, "unexpected argument '{}'", argv[optind]);
  TRY(check(options));
  return options;
}

}  // namespace vmm::workload
