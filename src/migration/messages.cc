#include "migration/messages.h"

#include "base/bytes.h"
#include "migration/peer_text.h"

namespace vmm::migration {
namespace {

constexpr std::size_t kLengthBytes = sizeof(std::uint32_t);

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
  Result<> operator()(const Commit& message) const { return put(message.saved_ns); }
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
  Result<> operator()(const AskTime& /*message*/) const { return success(); }
  Result<> operator()(const TimeMessage& message) const { return put(message.ns); }

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
  TRY(accept.secret, in.get_array<sizeof(Secret)>());
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

Result<std::uint64_t> get_ns(ByteReader& in, std::chrono::nanoseconds most, std::string_view what) {
  TRY(const auto ns, in.get<std::uint64_t>());
  if (ns > to_ns(most)) {
    return fail(ErrorKind::kFailed, "{} {} ns, at most {} are believed", what, ns, most.count());
  }
  return ns;
}

// A time that a part of the hand-over took, in nanoseconds. Sums of a few of them fit everywhere.
Result<std::uint64_t> get_time(ByteReader& in) {
  return get_ns(in, kMaxSinceSave, "it took");
}

// What the destination's clock shows, in nanoseconds.
Result<std::uint64_t> get_clock(ByteReader& in) {
  return get_ns(in, kMaxSession, "since the session began:");
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
      return with_field<Digest>(in.get_array<sizeof(Digest)>());
    case MessageType::kPrepared:
      return with_field<Prepared>(get_time(in));
    case MessageType::kCommit:
      return with_field<Commit>(get_clock(in));
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
    case MessageType::kAskTime:
      return Message(AskTime{});
    case MessageType::kTime:
      return with_field<TimeMessage>(get_clock(in));
  }
  return fail(ErrorKind::kFailed, "unknown message type {}", static_cast<std::uint32_t>(type));
}

}  // namespace

std::string_view to_string(Outcome outcome) {
  return outcome == Outcome::kStarted ? "started" : "discarded";
}

std::string_view to_string(MessageType type) {
  constexpr std::array<std::string_view, std::variant_size_v<Message>> kNames{
      "MANIFEST", "ACCEPT", "REFUSE",    "ROUND_END", "ROUND_ACK", "REHEARSE", "REHEARSED",
      "STATE",    "VERIFY", "DIGEST",    "PREPARED",  "COMMIT",    "STARTED",  "DISCARDED",
      "DONE",     "CANCEL", "HEARTBEAT", "OUTCOME",   "ASK_TIME",  "TIME"};
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
  return out.to_array<kFrameHeaderBytes>();
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
    case MessageType::kCommit:
    case MessageType::kTime:
      return sizeof(std::uint64_t);
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
    case MessageType::kAskTime:
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
