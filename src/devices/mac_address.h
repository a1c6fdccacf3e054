#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"

namespace vmm {

// The Ethernet address of a guest's network device: unicast, and not all zero.
class MacAddress {
 public:
  static constexpr std::size_t kBytes = 6;

  // Six pairs of hexadecimal digits joined by colons, "52:54:00:12:34:56". Errors are of kind
  // kUsage: malformed, a group address, all zero.
  [[nodiscard]] static Result<MacAddress> parse(std::string_view text);

  // Errors are of kind kUsage: a group address, all zero.
  [[nodiscard]] static Result<MacAddress> from_bytes(const std::array<std::uint8_t, kBytes>& bytes);

  // The address of a guest that was given none: locally administered, and the same for the same
  // names on every host and in every version of the program.
  [[nodiscard]] static MacAddress derive(std::string_view guest, std::string_view net_id);

  [[nodiscard]] const std::array<std::uint8_t, kBytes>& bytes() const { return bytes_; }
  [[nodiscard]] std::string to_string() const;
  [[nodiscard]] bool operator==(const MacAddress&) const = default;

 private:
  explicit MacAddress(const std::array<std::uint8_t, kBytes>& bytes) : bytes_(bytes) {}

  std::array<std::uint8_t, kBytes> bytes_;
};

}  // namespace vmm
