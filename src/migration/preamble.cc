#include "migration/preamble.h"

#include <utility>

#include "base/bytes.h"
#include "migration/peer_text.h"

namespace vmm::migration {
namespace {

// How a TLS handshake begins: a record of type 22, of a version 3.x.
constexpr auto kTlsHandshake = std::byte{22};
constexpr auto kTlsVersion = std::byte{3};

Result<> check_magic_and_version(ByteReader& in) {
  TRY(const auto magic, in.get_array<kMagic.size()>());
  if (magic[0] == kTlsHandshake && magic[1] == kTlsVersion) {
    return fail(ErrorKind::kFailed,
                "the peer speaks TLS, and this side plaintext: give --plaintext on both sides or "
                "neither");
  }
  if (magic != kMagic) {
    return fail(ErrorKind::kFailed, "the peer does not speak the migration protocol of vmm");
  }
  TRY(const auto version, in.get<std::uint32_t>());
  if (version != kProtocolVersion) {
    return fail(ErrorKind::kFailed,
                "the peer speaks version {} of the migration protocol, this program version {}",
                version, kProtocolVersion);
  }
  return success();
}

void put_magic_and_version(ByteWriter& out) {
  out.put_bytes(kMagic);
  out.put(kProtocolVersion);
}

}  // namespace

std::array<std::byte, kPreambleBytes> encode(const Preamble& preamble) {
  ByteWriter out;
  put_magic_and_version(out);
  out.put(static_cast<std::uint8_t>(preamble.kind));
  out.put(std::uint8_t{0});
  out.put_bytes(preamble.id.bytes());
  out.put_bytes(preamble.secret);
  out.put(preamble.channel);
  return out.to_array<kPreambleBytes>();
}

Result<Preamble> decode_preamble(std::span<const std::byte, kPreambleBytes> bytes) {
  ByteReader in(bytes);
  TRY(check_magic_and_version(in));
  Preamble preamble;
  TRY(const auto kind, in.get<std::uint8_t>());
  preamble.kind = static_cast<ConnectionKind>(kind);
  if (kind < static_cast<std::uint8_t>(ConnectionKind::kControl) ||
      kind > static_cast<std::uint8_t>(ConnectionKind::kQuery)) {
    return fail(ErrorKind::kFailed, "unknown kind of connection {}", kind);
  }
  TRY(const auto flags, in.get<std::uint8_t>());
  if (flags != 0) return fail(ErrorKind::kFailed, "unknown connection flags {:#x}", flags);
  TRY(const auto id, in.get_array<MigrationId::kBytes>());
  preamble.id = MigrationId(id);
  TRY(preamble.secret, in.get_array<sizeof(Secret)>());
  TRY(preamble.channel, in.get<std::uint16_t>());
  if (preamble.kind != ConnectionKind::kData &&
      (preamble.secret != Secret{} || preamble.channel != 0)) {
    return fail(ErrorKind::kFailed, "a secret or an index where no data channel is opened");
  }
  if (preamble.channel >= kMaxDataChannels) {
    return fail(ErrorKind::kFailed, "data channel {}, the last one may be {}", preamble.channel,
                kMaxDataChannels - 1);
  }
  return preamble;
}

std::vector<std::byte> encode(const PreambleAnswer& answer) {
  ByteWriter out;
  put_magic_and_version(out);
  out.put(answer.status);
  out.put_string(printable(answer.text));
  return out.take();
}

Result<PreambleAnswerHead> decode_answer_head(
    std::span<const std::byte, kPreambleAnswerHeadBytes> bytes) {
  ByteReader in(bytes);
  TRY(check_magic_and_version(in));
  PreambleAnswerHead head;
  TRY(head.status, in.get<std::uint8_t>());
  TRY(head.text_bytes, in.get<std::uint32_t>());
  if (head.text_bytes > kMaxText) {
    return fail(ErrorKind::kFailed, "an answer of {} bytes, at most {} are allowed",
                head.text_bytes, kMaxText);
  }
  return head;
}

Result<PreambleAnswer> decode_answer(const PreambleAnswerHead& head,
                                     std::span<const std::byte> text) {
  if (text.size() != head.text_bytes) {
    return fail(ErrorKind::kFailed, "an answer of {} bytes where {} are announced", text.size(),
                head.text_bytes);
  }
  TRY(auto checked, check_printable({reinterpret_cast<const char*>(text.data()), text.size()}));
  return PreambleAnswer{head.status, std::move(checked)};
}

}  // namespace vmm::migration
