#include "fuzz.h"

#include <cstdio>
#include <cstdlib>

#include "base/log.h"

namespace vmm::fuzz {

void check(bool holds, std::string_view what) {
  if (holds) return;
  std::fprintf(stderr, "does not hold: %.*s\n", static_cast<int>(what.size()), what.data());
  std::abort();
}

Target::Target(std::string_view target_name, void (*target_run)(Input&))
    : name(target_name), run(target_run) {
  targets().push_back(*this);
}

std::vector<Target>& targets() {
  static std::vector<Target> all;
  return all;
}

void prepare() {
  check(log_to_file("/dev/null", LogLevel::kError), "/dev/null can be written to");
}

}  // namespace vmm::fuzz
