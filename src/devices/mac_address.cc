#include "devices/mac_address.h"

#include <algorithm>

namespace vmm {
namespace {

constexpr std::uint8_t kGroup = 0x01;  // first octet: multicast or broadcast (IEEE 802, 8.2)
constexpr std::uint8_t kLocal = 0x02;  // first octet: locally administered

constexpr std::size_t kTextSize = MacAddress::kBytes * 3 - 1;

int hex_digit(char character) {
  if (character >= '0' && character <= '9') return character - '0';
  if (character >= 'a' && character <= 'f') return character - 'a' + 10;
  if (character >= 'A' && character <= 'F') return character - 'A' + 10;
  return -1;
}

// FNV-1a of 64 bits, going on from `hash`.
std::uint64_t fnv1a(std::uint64_t hash, std::string_view text) {
  constexpr std::uint64_t kPrime = 0x100'0000'01b3;
  for (const char character : text) {
    hash = (hash ^ static_cast<std::uint8_t>(character)) * kPrime;
  }
  return hash;
}

// Spreads every bit over all others (the finalizer of MurmurHash3): names differ mostly in their
// last character, which FNV leaves in the low bits.
std::uint64_t mix(std::uint64_t value) {
  value = (value ^ value >> 33) * 0xff51'afd7'ed55'8ccd;
  value = (value ^ value >> 33) * 0xc4ce'b9fe'1a85'ec53;
  return value ^ value >> 33;
}

}  // namespace

Result<MacAddress> MacAddress::parse(std::string_view text) {
  std::array<std::uint8_t, kBytes> bytes{};
  bool well_formed = text.size() == kTextSize;
  for (std::size_t i = 0; well_formed && i < kBytes; ++i) {
    const int high = hex_digit(text[i * 3]);
    const int low = hex_digit(text[i * 3 + 1]);
    well_formed = high >= 0 && low >= 0 && (i + 1 == kBytes || text[i * 3 + 2] == ':');
    bytes[i] = static_cast<std::uint8_t>(high * 16 + low);
  }
  if (!well_formed) {
    return fail(ErrorKind::kUsage, "'{}' is not a MAC address such as 52:54:00:12:34:56", text);
  }
  return from_bytes(bytes);
}

Result<MacAddress> MacAddress::from_bytes(const std::array<std::uint8_t, kBytes>& bytes) {
  const MacAddress mac(bytes);
  if ((bytes[0] & kGroup) != 0) {
    return fail(ErrorKind::kUsage,
                "the MAC address {} is a multicast one; the second digit must be even",
                mac.to_string());
  }
  if (std::ranges::all_of(bytes, [](std::uint8_t byte) { return byte == 0; })) {
    return fail(ErrorKind::kUsage, "the MAC address {} is all zero", mac.to_string());
  }
  return mac;
}

MacAddress MacAddress::derive(std::string_view guest, std::string_view net_id) {
  constexpr std::uint64_t kOffsetBasis = 0xcbf2'9ce4'8422'2325;
  // The NUL keeps "a" + "bc" and "ab" + "c" apart.
  std::uint64_t hash = fnv1a(kOffsetBasis, guest);
  hash = mix(fnv1a(fnv1a(hash, std::string_view("\0", 1)), net_id));
  std::array<std::uint8_t, kBytes> bytes{};
  for (std::uint8_t& byte : bytes) {
    byte = static_cast<std::uint8_t>(hash);
    hash >>= 8;
  }
  bytes[0] = static_cast<std::uint8_t>((bytes[0] & ~kGroup) | kLocal);
  return MacAddress(bytes);
}

std::string MacAddress::to_string() const {
  return fmt::format("{:02x}:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}", bytes_[0], bytes_[1], bytes_[2],
                     bytes_[3], bytes_[4], bytes_[5]);
}

}  // namespace vmm
