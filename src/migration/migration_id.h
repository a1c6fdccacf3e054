#pragma once

#include <array>
#include <compare>
#include <cstddef>
#include <string>
#include <string_view>

#include "base/result.h"

namespace vmm::migration {

// Names one migration on both hosts, for ever: 128 random bits.
class MigrationId {
 public:
  static constexpr std::size_t kBytes = 16;
  using Bytes = std::array<std::byte, kBytes>;

  // All zero: no migration.
  MigrationId() = default;
  explicit MigrationId(const Bytes& bytes) : bytes_(bytes) {}

  // A new one, by getrandom(2). Error (kHost) where the host has no random numbers yet.
  [[nodiscard]] static Result<MigrationId> random();
  // 32 hexadecimal digits, lower case; anything else is an error (kUsage).
  [[nodiscard]] static Result<MigrationId> parse(std::string_view text);

  [[nodiscard]] const Bytes& bytes() const { return bytes_; }
  // 32 hexadecimal digits, lower case.
  [[nodiscard]] std::string to_string() const;
  [[nodiscard]] auto operator<=>(const MigrationId&) const = default;

 private:
  Bytes bytes_{};
};

// What a data channel proves with that it belongs to a session: 128 random bits that the
// destination sends over the control connection.
using Secret = std::array<std::byte, 16>;
// Error (kHost) as for MigrationId::random().
[[nodiscard]] Result<Secret> random_secret();
// Compares without telling by its duration where the first difference is.
[[nodiscard]] bool same_secret(const Secret& a, const Secret& b);

}  // namespace vmm::migration
