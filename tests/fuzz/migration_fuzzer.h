#pragma once

#include <unistd.h>

#include <filesystem>

#include "base/bytes.h"
#include "fuzz_channels.h"
#include "migration/decision_record.h"
#include "migration/ram_record.h"
#include "migration_manifest_support.h"

// What the fuzzers of a whole source and a whole destination share.
namespace vmm::fuzz {

// Both sides of a migration take this for the time that a peer may be silent: nobody waits long.
inline constexpr std::chrono::milliseconds kPeerTimeout{40};
inline constexpr std::uint64_t kGuestRam = 0x4000'0000;
inline constexpr std::uint64_t kGuestSize = std::uint64_t{2} << 20;

inline migration::Manifest small_manifest() {
  auto manifest = migration::full_manifest();
  manifest.memory = kGuestSize;
  manifest.channels = 2;
  return manifest;
}

// Records that are gone with the run, in memory where they can be.
class Records {
 public:
  Records() = default;
  ~Records() { std::filesystem::remove_all(folder_); }
  Records(const Records&) = delete;
  Records& operator=(const Records&) = delete;

 private:
  static std::filesystem::path empty_folder() {
    namespace fs = std::filesystem;
    const fs::path in = fs::exists("/dev/shm") ? "/dev/shm" : fs::temp_directory_path();
    auto folder = in / ("vmm-fuzz-" + std::to_string(::getpid()));
    fs::remove_all(folder);
    return folder;
  }
  const std::filesystem::path folder_ = empty_folder();

 public:
  migration::DecisionRecords records = migration::DecisionRecords::open(folder_).value();
};

inline void put_frame(ByteWriter& out, std::uint32_t type, std::span<const std::byte> payload) {
  out.put(type);
  out.put(static_cast<std::uint32_t>(payload.size()));
  out.put_bytes(payload);
}

// What a peer says on a control connection behind the preamble: messages, well-formed or not.
// `special` is called for the last kind of step.
template <typename Special>
void put_messages(Input& input, ByteWriter& out, unsigned kind, Special special) {
  switch (kind) {
    case 0:  // anything
      out.put_bytes(input.bytes(input.get<std::uint8_t>()));
      return;
    case 1: {  // a message of a type
      const auto type = input.get<std::uint8_t>();
      put_frame(out, type, input.bytes(input.get<std::uint8_t>()));
      return;
    }
    case 2:  // a header alone
      out.put<std::uint32_t>(input.get<std::uint8_t>());
      out.put(input.get<std::uint32_t>());
      return;
    default:
      special();
      return;
  }
}

}  // namespace vmm::fuzz
