// Makes disk or network load in a guest and measures it; see usage() in options.cc.

#include <csignal>
#include <cstdio>
#include <vector>

#include "load/loads.h"
#include "load/options.h"

namespace vmm::load {
namespace {

Result<> run(const Load& load) {
  if (const auto* disk = std::get_if<DiskLoad>(&load)) return run_disk(*disk);
  if (const auto* network = std::get_if<NetworkLoad>(&load)) return run_network(*network);
  return serve(std::get<Server>(load));
}

}  // namespace
}  // namespace vmm::load

// Exit status: 0 done, 1 failed, 2 usage.
int main(int argc, char** argv) {
  using namespace vmm;
  const std::vector<std::string_view> arguments(argv + 1, argv + argc);
  if (arguments == std::vector<std::string_view>{"help"}) {
    std::fwrite(load::usage().data(), 1, load::usage().size(), stdout);
    return 0;
  }
  std::signal(SIGPIPE, SIG_IGN);  // NOLINT: a closed connection is an error of write
  const auto load = load::parse_load(arguments);
  if (!load) {
    std::fprintf(stderr, "load: %s\n", load.error().message().c_str());
    return 2;
  }
  if (const auto done = load::run(load.value()); !done) {
    std::fprintf(stderr, "load: %s\n", done.error().message().c_str());
    return 1;
  }
  return 0;
}
