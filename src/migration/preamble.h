#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "migration/limits.h"
#include "migration/migration_id.h"

// What is said first on a connection of the migration protocol (docs/migration-protocol.md), all
// little-endian. Decoders take nothing on trust; their errors are of kind kFailed.
namespace vmm::migration {

// How it and its answer begin.
inline constexpr std::array<std::byte, 8> kMagic{std::byte{'V'}, std::byte{'M'}, std::byte{'M'},
                                                 std::byte{'M'}, std::byte{'I'}, std::byte{'G'},
                                                 std::byte{'R'}, std::byte{'1'}};

enum class ConnectionKind : std::uint8_t { kControl = 1, kData = 2, kQuery = 3 };

struct Preamble {
  ConnectionKind kind = ConnectionKind::kControl;
  MigrationId id;
  Secret secret{};            // zero but for kData
  std::uint16_t channel = 0;  // index of a data channel; 0 but for kData
  [[nodiscard]] bool operator==(const Preamble&) const = default;
};
inline constexpr std::size_t kPreambleBytes = 48;

[[nodiscard]] std::array<std::byte, kPreambleBytes> encode(const Preamble& preamble);
// Another version is an error that names both.
[[nodiscard]] Result<Preamble> decode_preamble(std::span<const std::byte, kPreambleBytes> bytes);

// The answer to it. Its head has a fixed size; the text is what remains to be read then.
struct PreambleAnswer {
  std::uint8_t status = 0;  // 0: go on; anything else: refused
  std::string text;         // why
  [[nodiscard]] bool operator==(const PreambleAnswer&) const = default;
};
struct PreambleAnswerHead {
  std::uint8_t status = 0;
  std::uint32_t text_bytes = 0;  // at most kMaxText
};
inline constexpr std::size_t kPreambleAnswerHeadBytes = 17;

// A text that is too long or not printable is made fit, as printable() says.
[[nodiscard]] std::vector<std::byte> encode(const PreambleAnswer& answer);
[[nodiscard]] Result<PreambleAnswerHead> decode_answer_head(
    std::span<const std::byte, kPreambleAnswerHeadBytes> bytes);
[[nodiscard]] Result<PreambleAnswer> decode_answer(const PreambleAnswerHead& head,
                                                   std::span<const std::byte> text);

}  // namespace vmm::migration
