#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/result.h"
#include "migration/limits.h"
#include "migration/manifest.h"

// The messages of the migration protocol (docs/migration-protocol.md), all little-endian. Decoders
// take nothing on trust; their errors are of kind kFailed. Whatever decodes is encoded as the same
// bytes.
namespace vmm::migration {

// A time, which is not negative, as messages have it.
[[nodiscard]] inline std::uint64_t to_ns(std::chrono::nanoseconds time) {
  return static_cast<std::uint64_t>(time.count());
}

enum class MessageType : std::uint32_t {
  kManifest = 1,
  kAccept,
  kRefuse,
  kRoundEnd,
  kRoundAck,
  kRehearse,
  kRehearsed,
  kState,
  kVerify,
  kDigest,
  kPrepared,
  kCommit,
  kStarted,
  kDiscarded,
  kDone,
  kCancel,
  kHeartbeat,
  kOutcome,
  kAskTime,
  kTime,
};
[[nodiscard]] std::string_view to_string(MessageType type);

// Source to destination: the first message.
struct ManifestMessage {
  Manifest manifest;
  [[nodiscard]] bool operator==(const ManifestMessage&) const = default;
};
// Destination to source: the machine is built and fully armed.
struct Accept {
  Secret secret{};             // for the data channels' preambles
  std::uint16_t channels = 1;  // data channels granted, 1 to kMaxDataChannels
  [[nodiscard]] bool operator==(const Accept&) const = default;
};
// Destination to source: this guest cannot come here. The text names the field and both values.
struct Refuse {
  ErrorKind kind = ErrorKind::kFailed;  // kFailed, kUsage, kHost or kMigration
  std::string text;
  [[nodiscard]] bool operator==(const Refuse&) const = default;
};
// Source to destination: all of a round has been written to the data channels.
struct RoundEnd {
  std::uint32_t round = 0;
  [[nodiscard]] bool operator==(const RoundEnd&) const = default;
};
// Destination to source: all data channels have reached the end of the round.
struct RoundAck {
  std::uint32_t round = 0;
  [[nodiscard]] bool operator==(const RoundAck&) const = default;
};
// Source to destination: restore this state for practice, and time it.
struct Rehearse {
  std::vector<std::byte> state;  // at most kMaxMachineState
  [[nodiscard]] bool operator==(const Rehearse&) const = default;
};
struct Rehearsed {
  std::uint64_t restore_ns = 0;  // at most kMaxSinceSave, as all times are
  [[nodiscard]] bool operator==(const Rehearsed&) const = default;
};
// Source to destination: the machine's state, for good.
struct State {
  std::vector<std::byte> state;  // at most kMaxMachineState
  [[nodiscard]] bool operator==(const State&) const = default;
};
// Source to destination: send the digest of the guest's memory.
struct Verify {
  [[nodiscard]] bool operator==(const Verify&) const = default;
};
struct Digest {
  std::array<std::byte, 32> sha256{};
  [[nodiscard]] bool operator==(const Digest&) const = default;
};
// Destination to source: memory and state are complete; nothing runs.
struct Prepared {
  std::uint64_t restore_ns = 0;
  [[nodiscard]] bool operator==(const Prepared&) const = default;
};
// Source to destination: the guest is yours.
struct Commit {
  // When the guest's counters were read, by the destination's clock (TIME). At most kMaxSession.
  std::uint64_t saved_ns = 0;
  [[nodiscard]] bool operator==(const Commit&) const = default;
};
// Destination to source: the guest runs here.
struct Started {
  std::uint64_t disks_ns = 0;   // opening and locking the disks
  std::uint64_t record_ns = 0;  // the decision record
  std::uint64_t start_ns = 0;   // from then to running vCPUs
  [[nodiscard]] bool operator==(const Started&) const = default;
};
// Destination to source: the guest will never run here.
struct Discarded {
  std::string text;
  [[nodiscard]] bool operator==(const Discarded&) const = default;
};
// Source to destination: STARTED has arrived; the connection may go.
struct Done {
  [[nodiscard]] bool operator==(const Done&) const = default;
};
// Both ways, before the commit.
struct Cancel {
  std::string text;
  [[nodiscard]] bool operator==(const Cancel&) const = default;
};
struct Heartbeat {
  [[nodiscard]] bool operator==(const Heartbeat&) const = default;
};
// What a destination has decided, for good.
enum class Outcome : std::uint8_t { kStarted = 1, kDiscarded = 2 };
[[nodiscard]] std::string_view to_string(Outcome outcome);
// The answer on a query connection.
struct OutcomeMessage {
  Outcome outcome = Outcome::kDiscarded;
  [[nodiscard]] bool operator==(const OutcomeMessage&) const = default;
};
// Source to destination: what does your clock show?
struct AskTime {
  [[nodiscard]] bool operator==(const AskTime&) const = default;
};
// Destination to source: halfway between the question's arrival and this answer.
struct TimeMessage {
  std::uint64_t ns = 0;  // since the session began there; at most kMaxSession
  [[nodiscard]] bool operator==(const TimeMessage&) const = default;
};

using Message = std::variant<ManifestMessage, Accept, Refuse, RoundEnd, RoundAck, Rehearse,
                             Rehearsed, State, Verify, Digest, Prepared, Commit, Started, Discarded,
                             Done, Cancel, Heartbeat, OutcomeMessage, AskTime, TimeMessage>;

[[nodiscard]] MessageType type_of(const Message& message);

// --- Frames ---

struct FrameHeader {
  std::uint32_t type = 0;
  std::uint32_t length = 0;  // of the payload, bytes
  [[nodiscard]] bool operator==(const FrameHeader&) const = default;
};
inline constexpr std::size_t kFrameHeaderBytes = 8;

[[nodiscard]] std::array<std::byte, kFrameHeaderBytes> encode(const FrameHeader& header);
// Error where the type is unknown or the length beyond max_payload(type): to be asked before
// anything is allocated for the payload.
[[nodiscard]] Result<FrameHeader> decode_frame_header(
    std::span<const std::byte, kFrameHeaderBytes> bytes);
// Longest payload of a type, bytes. Error for an unknown type.
[[nodiscard]] Result<std::size_t> max_payload(std::uint32_t type);

// A message's payload. Texts are made fit as printable() says; an error where a manifest does not
// check() or a state is longer than kMaxMachineState.
[[nodiscard]] Result<std::vector<std::byte>> encode_payload(const Message& message);
[[nodiscard]] Result<Message> decode_payload(std::uint32_t type,
                                             std::span<const std::byte> payload);

}  // namespace vmm::migration
