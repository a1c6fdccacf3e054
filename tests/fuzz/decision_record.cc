#include "migration/decision_record.h"

#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "fuzz_channels.h"

// The text of a record on the disk: a destination's and a source's. The first byte says which.
namespace vmm::fuzz {
namespace {

using namespace migration;
namespace fs = std::filesystem;

constexpr std::int64_t kNow = 1'800'000'000;
const auto kId = MigrationId::parse("00112233445566778899aabbccddeeff").value();

// In memory, where it can be: nothing here has to outlive the process.
const fs::path& folder() {
  static const fs::path made = [] {
    const fs::path in = fs::exists("/dev/shm") ? "/dev/shm" : fs::temp_directory_path();
    return in / ("vmm-fuzz-records-" + std::to_string(::getpid()));
  }();
  return made;
}

void run(Input& input) {
  auto records = DecisionRecords::open(folder()).value();
  const bool destination = input.below(2) != 0;
  const fs::path file = folder() / (kId.to_string() + (destination ? ".destination" : ".source"));
  const auto bytes = input.rest();
  std::ofstream(file, std::ios::binary)
      .write(reinterpret_cast<const char*>(bytes.data()), std::ssize(bytes));
  if (destination) {
    const auto found = records.lookup(kId);
    const auto decided = records.decide(kId, Outcome::kDiscarded, kNow);
    check(found.has_value() == decided.has_value(), "what makes no sense is no decision");
    check(!found || (found.value() && found.value()->outcome == decided.value()),
          "a decision stands");
  } else {
    const auto found = records.source(kId);
    if (found && found.value()) {
      check(records.put(*found.value()).has_value(), "a record that is read can be written");
      check(records.source(kId).value() == found.value(), "and is the same then");
    }
  }
  check(records.sweep(kNow).has_value(), "records can be swept, whatever is in them");
  fs::remove_all(folder());
}

const Target kTarget{"decision_record", run};

}  // namespace
}  // namespace vmm::fuzz
