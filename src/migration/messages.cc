#include "migration/messages.h"

#include <algorithm>

#include "base/bytes.h"

namespace vmm::migration {
namespace {

// How a TLS handshake begins: a record of type 22, of a version 3.x.
constexpr auto kTlsHandshake = std::byte{22};
constexpr auto kTlsVersion = std::byte{3};
constexpr std::size_t kLengthBytes = sizeof(std::uint32_t);

bool is_printable(char c) {
  return c >= ' ' && c <= '~';
}

template <std::size_t N>
std::array<std::byte, N> fixed(const ByteWriter& out) {
  std::array<std::byte, N> bytes{};
  std::ranges::copy(out.bytes(), bytes.begin());
  return bytes;
}

template <std::size_t N>
Result<std::array<std::byte, N>> get_array(ByteReader& in) {
  TRY(const auto raw, in.get_bytes(N));
  std::array<std::byte, N> bytes{};
  std::ranges::copy(raw, bytes.begin());
  return bytes;
}

Result<std::string> check_printable(std::string text) {
  if (!std::ranges::all_of(text, is_printable)) {
    return fail(ErrorKind::kFailed, "a text of the peer has characters that are not printable");
  }
  return text;
}

Result<std::string> get_text(ByteReader& in) {
  TRY(auto text, in.get_string(kMaxText));
  return check_printable(std::move(text));
}

Result<> check_magic_and_version(ByteReader& in) {
  TRY(const auto magic, get_array<kMagic.size()>(in));
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

Result<std::uint16_t> check_channels(std::uint16_t channels) {
  if (channels == 0 || channels > kMaxDataChannels) {
    return fail(ErrorKind::kFailed, "{} data channels granted, allowed are 1 to {}", channels,
                kMaxDataChannels);
  }
  return channels;
}

// Which exit code the refused migration ends with is the destination's to say, within reason.
Result<ErrorKind> check_refusal(std::uint8_t value) {
  const auto kind = static_cast<ErrorKind>(value);
  switch (kind) {
    case ErrorKind::kFailed:
    case ErrorKind::kUsage:
    case ErrorKind::kHost:
    case ErrorKind::kMigration:
      return kind;
    default:
      return fail(ErrorKind::kFailed, "a refusal of unknown kind {}", value);
  }
}

Result<> check_state(std::span<const std::byte> state) {
  if (state.size() > kMaxMachineState) {
    return fail(ErrorKind::kFailed, "the machine's state is {} bytes, at most {} can be moved",
                state.size(), kMaxMachineState);
  }
  return success();
}

struct Encoder {
  ByteWriter& out;

  Result<> operator()(const ManifestMessage& message) const {
    TRY(const auto bytes, encode(message.manifest));
    out.put_bytes(bytes);
    return success();
  }
  Result<> operator()(const Accept& message) const {
    TRY(check_channels(message.channels));
    out.put_bytes(message.secret);
    out.put(message.channels);
    return success();
  }
  Result<> operator()(const Refuse& message) const {
    const auto kind = static_cast<std::uint8_t>(message.kind);
    TRY(check_refusal(kind));
    out.put(kind);
    out.put_string(printable(message.text));
    return success();
  }
  Result<> operator()(const RoundEnd& message) const { return put(message.round); }
  Result<> operator()(const RoundAck& message) const { return put(message.round); }
  Result<> operator()(const Rehearse& message) const { return put_state(message.state); }
  Result<> operator()(const Rehearsed& message) const { return put(message.restore_ns); }
  Result<> operator()(const State& message) const { return put_state(message.state); }
  Result<> operator()(const Verify& /*message*/) const { return success(); }
  Result<> operator()(const Digest& message) const {
    out.put_bytes(message.sha256);
    return success();
  }
  Result<> operator()(const Prepared& message) const { return put(message.restore_ns); }
  Result<> operator()(const Commit& message) const {
    out.put(message.since_save_ns);
    return put(message.turnaround_ns);
  }
  Result<> operator()(const Started& message) const {
    out.put(message.disks_ns);
    out.put(message.record_ns);
    return put(message.start_ns);
  }
  Result<> operator()(const Discarded& message) const { return put_text(message.text); }
  Result<> operator()(const Done& /*message*/) const { return success(); }
  Result<> operator()(const Cancel& message) const { return put_text(message.text); }
  Result<> operator()(const Heartbeat& /*message*/) const { return success(); }
  Result<> operator()(const OutcomeMessage& message) const {
    return put(static_cast<std::uint8_t>(message.outcome));
  }

  template <WireInteger T>
  Result<> put(T value) const {
    out.put(value);
    return success();
  }
  Result<> put_text(std::string_view text) const {
    out.put_string(printable(text));
    return success();
  }
  Result<> put_state(std::span<const std::byte> state) const {
    TRY(check_state(state));
    out.put_bytes(state);
    return success();
  }
};

Result<Message> get_accept(ByteReader& in) {
  Accept accept;
  TRY(accept.secret, get_array<sizeof(Secret)>(in));
  TRY(const auto channels, in.get<std::uint16_t>());
  TRY(accept.channels, check_channels(channels));
  return Message(accept);
}

Result<Message> get_refuse(ByteReader& in) {
  Refuse refuse;
  TRY(const auto kind, in.get<std::uint8_t>());
  TRY(refuse.kind, check_refusal(kind));
  TRY(refuse.text, get_text(in));
  return Message(refuse);
}

// A time that a part of the hand-over took, in nanoseconds. Sums of a few of them fit everywhere.
Result<std::uint64_t> get_time(ByteReader& in) {
  TRY(const auto ns, in.get<std::uint64_t>());
  constexpr std::chrono::nanoseconds kMost = kMaxSinceSave;
  if (ns > static_cast<std::uint64_t>(kMost.count())) {
    return fail(ErrorKind::kFailed, "it took {} ns, at most {} are believed", ns, kMost.count());
  }
  return ns;
}

Result<Message> get_commit(ByteReader& in) {
  TRY(const auto since_save, get_time(in));
  TRY(const auto turnaround, get_time(in));
  return Message(Commit{since_save, turnaround});
}

Result<Message> get_started(ByteReader& in) {
  Started started;
  TRY(started.disks_ns, get_time(in));
  TRY(started.record_ns, get_time(in));
  TRY(started.start_ns, get_time(in));
  return Message(started);
}

Result<Message> get_outcome(ByteReader& in) {
  TRY(const auto value, in.get<std::uint8_t>());
  const auto outcome = static_cast<Outcome>(value);
  if (outcome != Outcome::kStarted && outcome != Outcome::kDiscarded) {
    return fail(ErrorKind::kFailed, "unknown outcome {}", value);
  }
  return Message(OutcomeMessage{outcome});
}

// A message of one field.
template <typename T, typename Field>
Result<Message> with_field(Result<Field>&& field) {
  TRY(auto value, std::move(field));
  return Message(T{std::move(value)});
}

template <typename T>
Result<Message> with_rest(ByteReader& in) {
  TRY(const auto rest, in.get_bytes(in.remaining()));
  return Message(T{{rest.begin(), rest.end()}});
}

Result<Message> get_message(MessageType type, ByteReader& in) {
  switch (type) {
    case MessageType::kManifest: {
      TRY(const auto rest, in.get_bytes(in.remaining()));
      return with_field<ManifestMessage>(decode_manifest(rest));
    }
    case MessageType::kAccept:
      return get_accept(in);
    case MessageType::kRefuse:
      return get_refuse(in);
    case MessageType::kRoundEnd:
      return with_field<RoundEnd>(in.get<std::uint32_t>());
    case MessageType::kRoundAck:
      return with_field<RoundAck>(in.get<std::uint32_t>());
    case MessageType::kRehearse:
      return with_rest<Rehearse>(in);
    case MessageType::kRehearsed:
      return with_field<Rehearsed>(get_time(in));
    case MessageType::kState:
      return with_rest<State>(in);
    case MessageType::kVerify:
      return Message(Verify{});
    case MessageType::kDigest:
      return with_field<Digest>(get_array<sizeof(Digest)>(in));
    case MessageType::kPrepared:
      return with_field<Prepared>(get_time(in));
    case MessageType::kCommit:
      return get_commit(in);
    case MessageType::kStarted:
      return get_started(in);
    case MessageType::kDiscarded:
      return with_field<Discarded>(get_text(in));
    case MessageType::kDone:
      return Message(Done{});
    case MessageType::kCancel:
      return with_field<Cancel>(get_text(in));
    case MessageType::kHeartbeat:
      return Message(Heartbeat{});
    case MessageType::kOutcome:
      return get_outcome(in);
  }
  return fail(ErrorKind::kFailed, "unknown message type {}", static_cast<std::uint32_t>(type));
}

}  // namespace

std::string printable(std::string_view text) {
  constexpr std::string_view kCut = "...";
  std::string fit(text.substr(0, kMaxText));
  std::ranges::replace_if(
      fit, [](char c) { return !is_printable(c); }, '?');
  if (text.size() > kMaxText) fit.replace(kMaxText - kCut.size(), kCut.size(), kCut);
  return fit;
}

std::array<std::byte, kPreambleBytes> encode(const Preamble& preamble) {
  ByteWriter out;
  put_magic_and_version(out);
  out.put(static_cast<std::uint8_t>(preamble.kind));
  out.put(std::uint8_t{0});
  out.put_bytes(preamble.id.bytes());
  out.put_bytes(preamble.secret);
  out.put(preamble.channel);
  return fixed<kPreambleBytes>(out);
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
  TRY(const auto id, get_array<MigrationId::kBytes>(in));
  preamble.id = MigrationId(id);
  TRY(preamble.secret, get_array<sizeof(Secret)>(in));
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

std::string_view to_string(Outcome outcome) {
  return outcome == Outcome::kStarted ? "started" : "discarded";
}

std::string_view to_string(MessageType type) {
  constexpr std::array<std::string_view, std::variant_size_v<Message>> kNames{
      "MANIFEST",  "ACCEPT",    "REFUSE", "ROUND_END", "ROUND_ACK", "REHEARSE",
      "REHEARSED", "STATE",     "VERIFY", "DIGEST",    "PREPARED",  "COMMIT",
      "STARTED",   "DISCARDED", "DONE",   "CANCEL",    "HEARTBEAT", "OUTCOME"};
  const auto index = static_cast<std::size_t>(type) - 1;
  return index < kNames.size() ? kNames[index] : "unknown";
}

MessageType type_of(const Message& message) {
  return static_cast<MessageType>(message.index() + 1);
}

std::array<std::byte, kFrameHeaderBytes> encode(const FrameHeader& header) {
  ByteWriter out;
  out.put(header.type);
  out.put(header.length);
  return fixed<kFrameHeaderBytes>(out);
}

Result<FrameHeader> decode_frame_header(std::span<const std::byte, kFrameHeaderBytes> bytes) {
  ByteReader in(bytes);
  FrameHeader header;
  TRY(header.type, in.get<std::uint32_t>());
  TRY(header.length, in.get<std::uint32_t>());
  TRY(const auto most, max_payload(header.type));
  if (header.length > most) {
    return fail(ErrorKind::kFailed, "a {} message of {} bytes, at most {} are allowed",
                to_string(static_cast<MessageType>(header.type)), header.length, most);
  }
  return header;
}

Result<std::size_t> max_payload(std::uint32_t type) {
  constexpr std::size_t kTextBytes = kLengthBytes + kMaxText;
  switch (static_cast<MessageType>(type)) {
    case MessageType::kManifest:
      return kMaxManifest;
    case MessageType::kAccept:
      return sizeof(Secret) + sizeof(std::uint16_t);
    case MessageType::kRefuse:
      return sizeof(std::uint8_t) + kTextBytes;
    case MessageType::kRoundEnd:
    case MessageType::kRoundAck:
      return sizeof(std::uint32_t);
    case MessageType::kRehearse:
    case MessageType::kState:
      return kMaxMachineState;
    case MessageType::kRehearsed:
    case MessageType::kPrepared:
      return sizeof(std::uint64_t);
    case MessageType::kCommit:
      return 2 * sizeof(std::uint64_t);
    case MessageType::kDigest:
      return sizeof(Digest);
    case MessageType::kStarted:
      return 3 * sizeof(std::uint64_t);
    case MessageType::kDiscarded:
    case MessageType::kCancel:
      return kTextBytes;
    case MessageType::kVerify:
    case MessageType::kDone:
    case MessageType::kHeartbeat:
      return std::size_t{0};
    case MessageType::kOutcome:
      return sizeof(std::uint8_t);
  }
  return fail(ErrorKind::kFailed, "unknown message type {}", type);
}

Result<std::vector<std::byte>> encode_payload(const Message& message) {
  ByteWriter out;
  TRY(std::visit(Encoder{out}, message));
  return out.take();
}

Result<Message> decode_payload(std::uint32_t type, std::span<const std::byte> payload) {
  TRY(const auto most, max_payload(type));
  const auto name = to_string(static_cast<MessageType>(type));
  if (payload.size() > most) {
    return fail(ErrorKind::kFailed, "a {} message of {} bytes, at most {} are allowed", name,
                payload.size(), most);
  }
  ByteReader in(payload);
  TRY(auto message, with_context(get_message(static_cast<MessageType>(type), in),
                                 fmt::format("message {}", name)));
  TRY(with_context(in.expect_end(), fmt::format("message {}", name)));
  return message;
}

}  // namespace vmm::migration
