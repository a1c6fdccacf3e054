#include "vmm/guest_config.h"

#include <string>

#include "fuzz.h"

// A guest's configuration file.
namespace vmm::fuzz {
namespace {

void run(Input& input) {
  const auto bytes = input.rest();
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  const auto config = parse_guest_config(text, "/nowhere/guest.cfg");
  if (!config) {
    check(config.error().kind() == ErrorKind::kUsage, "what is wrong with a file is its author's");
    check(!config.error().message().empty(), "an error says what is wrong");
    return;
  }
  check(check_guest_name(config.value().name).has_value(), "a name is one");
  check(config.value().vcpus != 0 && config.value().memory != 0, "a guest has CPUs and memory");
}

const Target kTarget{"guest_config", run};

}  // namespace
}  // namespace vmm::fuzz
