#include <cstdio>
#include <filesystem>
#include <limits>
#include <string>

#include "base/fd.h"
#include "fuzz.h"

// fuzz_replay TARGET PATH...: runs a target on each file, and on each file in each folder, so that
// the corpus is part of the unit tests, and a finding can be looked at without clang.

namespace {

namespace fs = std::filesystem;

bool replay(const vmm::fuzz::Target& target, const fs::path& file) {
  const auto text = vmm::read_file(file, std::numeric_limits<std::uint32_t>::max());
  if (!text) {
    std::fprintf(stderr, "fuzz_replay: %s\n", text.error().message().c_str());
    return false;
  }
  std::printf("%s\n", file.c_str());
  std::fflush(stdout);
  vmm::fuzz::Input input(std::as_bytes(std::span(text.value())));
  target.run(input);
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  const std::span arguments(argv, static_cast<std::size_t>(argc));
  if (argc < 3) {
    std::fputs("usage: fuzz_replay TARGET PATH...\n", stderr);
    return 2;
  }
  const auto target = std::ranges::find(vmm::fuzz::targets(), std::string_view(arguments[1]),
                                        &vmm::fuzz::Target::name);
  if (target == vmm::fuzz::targets().end()) {
    std::fprintf(stderr, "fuzz_replay: there is no target %s\n", arguments[1]);
    return 2;
  }
  vmm::fuzz::prepare();
  int files = 0;
  for (const char* path : arguments.subspan(2)) {
    if (!fs::is_directory(path)) {
      if (!replay(*target, path)) return 1;
      ++files;
      continue;
    }
    for (const auto& entry : fs::directory_iterator(path)) {
      if (!replay(*target, entry.path())) return 1;
      ++files;
    }
  }
  if (files == 0) {
    std::fputs("fuzz_replay: there was nothing to run\n", stderr);
    return 1;
  }
  return 0;
}
