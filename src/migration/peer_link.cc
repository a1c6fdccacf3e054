#include "migration/peer_link.h"

#include <algorithm>
#include <array>
#include <utility>

namespace vmm::migration {
namespace {

constexpr int kMaxBeforeLastWords = 64;

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
  // Byte by byte: a channel's timeout is for peers that say nothing, not for slow ones.
  const auto until = std::chrono::steady_clock::now() + kPreambleTimeout;
  std::array<std::byte, kPreambleBytes> bytes{};
  for (auto& byte : bytes) {
    TRY(read_into(channel, {&byte, 1}));
    if (std::chrono::steady_clock::now() > until) {
      return fail(ErrorKind::kMigration, "{} takes too long to say what it wants", channel.peer());
    }
  }
  return decode_preamble(bytes);
}

Result<> answer_preamble(Channel& channel, const PreambleAnswer& answer) {
  const auto bytes = encode(answer);
  const std::array parts{part(bytes)};
  return channel.write(parts);
}

Result<> answer_query(Channel& channel, Outcome outcome) {
  const OutcomeMessage message{outcome};
  TRY(const auto payload, encode_payload(message));
  const auto header = encode(FrameHeader{static_cast<std::uint32_t>(type_of(message)),
                                         static_cast<std::uint32_t>(payload.size())});
  const std::array parts{part(header), part(payload)};
  TRY(channel.write(parts));
  // A byte that comes instead of the end is a heartbeat of a peer that has not read it yet; it has
  // had a while, and has the answer in its host.
  std::array<std::byte, 1> ignored{};
  static_cast<void>(read_into(channel, ignored));
  return success();
}

PeerLink::PeerLink(std::unique_ptr<Channel> channel, std::chrono::milliseconds timeout,
                   std::function<void()> on_failure)
    : link_(std::move(channel), {.timeout = timeout, .on_failure = std::move(on_failure)}) {}

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
  arrived_at_ = frame->arrived;
  auto message = decode_payload(frame->type, frame->payload);
  if (!message) {
    return fail(ErrorKind::kMigration, "{} sent what is no message: {}", link_.peer(),
                message.error().message());
  }
  return message;
}

std::optional<std::string> PeerLink::last_words(std::chrono::milliseconds timeout) {
  const auto until = std::chrono::steady_clock::now() + timeout;
  // What it had said before it gave up; more is not what this protocol is like.
  for (int i = 0; i < kMaxBeforeLastWords; ++i) {
    const auto left =
        std::chrono::ceil<std::chrono::milliseconds>(until - std::chrono::steady_clock::now());
    const auto message = receive(std::max(left, std::chrono::milliseconds(0)));
    if (!message) return std::nullopt;
    if (auto reason = reason_to_give_up(message.value())) return reason;
  }
  return std::nullopt;
}

std::optional<std::string> reason_to_give_up(const Message& message) {
  if (const auto* cancel = std::get_if<Cancel>(&message)) return cancel->text;
  if (const auto* discarded = std::get_if<Discarded>(&message)) return discarded->text;
  return std::nullopt;
}

}  // namespace vmm::migration
