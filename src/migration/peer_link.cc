#include "migration/peer_link.h"

#include <array>

namespace vmm::migration {
namespace {

iovec part(std::span<const std::byte> bytes) {
  return {const_cast<std::byte*>(bytes.data()), bytes.size()};
}

Result<> read_into(Channel& channel, std::span<std::byte> bytes) {
  const std::array parts{part(bytes)};
  return channel.read(parts);
}

Error not_ours(const Channel& channel, const Error& error) {
  return make_error(ErrorKind::kMigration, "{} does not speak this protocol: {}", channel.peer(),
                    error.message());
}

std::optional<std::size_t> payload_cap(std::uint32_t type) {
  const auto cap = max_payload(type);
  return cap ? std::optional(cap.value()) : std::nullopt;
}

}  // namespace

Result<> introduce(Channel& channel, const Preamble& preamble) {
  const auto bytes = encode(preamble);
  const std::array parts{part(bytes)};
  TRY(channel.write(parts));
  std::array<std::byte, kPreambleAnswerHeadBytes> head_bytes{};
  TRY(read_into(channel, head_bytes));
  const auto head = decode_answer_head(head_bytes);
  if (!head) return fail(not_ours(channel, head.error()));
  std::vector<std::byte> text(head.value().text_bytes);
  if (!text.empty()) {
    TRY(read_into(channel, text));
  }
  const auto answer = decode_answer(head.value(), text);
  if (!answer) return fail(not_ours(channel, answer.error()));
  if (answer.value().status != 0) {
    return fail(ErrorKind::kMigration, "{} refuses: {}", channel.peer(), answer.value().text);
  }
  return success();
}

Result<Preamble> read_preamble(Channel& channel) {
  std::array<std::byte, kPreambleBytes> bytes{};
  TRY(read_into(channel, bytes));
  return decode_preamble(bytes);
}

Result<> answer_preamble(Channel& channel, const PreambleAnswer& answer) {
  const auto bytes = encode(answer);
  const std::array parts{part(bytes)};
  return channel.write(parts);
}

PeerLink::PeerLink(std::unique_ptr<Channel> channel, std::chrono::milliseconds timeout)
    : link_(std::move(channel), {.max_payload = payload_cap,
                                 .heartbeat = static_cast<std::uint32_t>(MessageType::kHeartbeat),
                                 .timeout = timeout}) {}

Result<> PeerLink::send(const Message& message) {
  TRY(const auto payload, encode_payload(message));
  return link_.send(static_cast<std::uint32_t>(type_of(message)), payload);
}

Result<Message> PeerLink::receive(std::chrono::milliseconds timeout) {
  TRY(const auto frame, link_.receive(timeout));
  if (!frame) {
    return fail(ErrorKind::kMigration, "{} has not answered within {} ms", link_.peer(),
                timeout.count());
  }
  auto message = decode_payload(frame->type, frame->payload);
  if (!message) {
    return fail(ErrorKind::kMigration, "{} sent what is no message: {}", link_.peer(),
                message.error().message());
  }
  if (const auto* cancel = std::get_if<Cancel>(&message.value())) {
    return fail(ErrorKind::kMigration, "{} has given up: {}", link_.peer(), cancel->text);
  }
  return message;
}

}  // namespace vmm::migration
