#include "migration/migration_id.h"

#include <sys/random.h>

#include <cerrno>
#include <span>

namespace vmm::migration {
namespace {

constexpr std::string_view kDigits = "0123456789abcdef";

Result<> fill_random(std::span<std::byte> bytes) {
  while (!bytes.empty()) {
    const auto got = ::getrandom(bytes.data(), bytes.size(), 0);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return fail_errno(ErrorKind::kHost, "cannot get {} random bytes", bytes.size());
    bytes = bytes.subspan(static_cast<std::size_t>(got));
  }
  return success();
}

}  // namespace

Result<MigrationId> MigrationId::random() {
  MigrationId id;
  TRY(fill_random(id.bytes_));
  return id;
}

Result<MigrationId> MigrationId::parse(std::string_view text) {
  if (text.size() != 2 * kBytes || text.find_first_not_of(kDigits) != std::string_view::npos) {
    return fail(ErrorKind::kUsage,
                "'{}' is not a migration id: want {} hexadecimal digits, a to f small", text,
                2 * kBytes);
  }
  MigrationId id;
  for (std::size_t i = 0; i < kBytes; ++i) {
    const auto high = kDigits.find(text[2 * i]);
    const auto low = kDigits.find(text[2 * i + 1]);
    id.bytes_[i] = static_cast<std::byte>(high << 4U | low);
  }
  return id;
}

std::string MigrationId::to_string() const {
  std::string text;
  text.reserve(2 * kBytes);
  for (const std::byte byte : bytes_) {
    const auto value = std::to_integer<unsigned>(byte);
    text += kDigits[value >> 4U];
    text += kDigits[value & 15U];
  }
  return text;
}

Result<Secret> random_secret() {
  Secret secret{};
  TRY(fill_random(secret));
  return secret;
}

bool same_secret(const Secret& a, const Secret& b) {
  unsigned differs = 0;
  for (std::size_t i = 0; i < a.size(); ++i) differs |= std::to_integer<unsigned>(a[i] ^ b[i]);
  return differs == 0;
}

}  // namespace vmm::migration
