#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "migration/messages.h"
#include "migration/preamble.h"
#include "migration/ram_record.h"

// What can go wrong with a piece of what two sides of a migration say to each other.
namespace vmm::migration {

enum class Fault {
  kCut,        // the connection goes before it is passed on
  kCutMidway,  // when half of it is passed on
  kCutAfter,   // and right after
  kStall,      // it and what follows never comes, while the connection stays
  kBlocked,    // the peer does not read: there is no room for it
  kGarbage,    // something else comes instead
  kFlipped,    // its first byte behind the header is another one
  kShort,      // a frame of one byte less
  kByteLost,   // its last byte does not come, what follows does
  kDuplicated,
  kReordered,  // what is to follow it comes first
  kOversized,  // its length is one more than is allowed
  kHuge,       // its length is the most that can be said
  kUnknownType,
  kVersion,      // it is of another version
  kOutOfTurn,    // a message of much later comes instead
  kPeerCancels,  // the peer gives up instead
  kSourceCancels,
  kDestinationCancels,
};
inline constexpr std::array kFaults{
    Fault::kCut,         Fault::kCutMidway,     Fault::kCutAfter,          Fault::kStall,
    Fault::kBlocked,     Fault::kGarbage,       Fault::kFlipped,           Fault::kShort,
    Fault::kByteLost,    Fault::kDuplicated,    Fault::kReordered,         Fault::kOversized,
    Fault::kHuge,        Fault::kUnknownType,   Fault::kVersion,           Fault::kOutOfTurn,
    Fault::kPeerCancels, Fault::kSourceCancels, Fault::kDestinationCancels};

inline std::string_view to_string(Fault fault) {
  constexpr std::array<std::string_view, kFaults.size()> kNames{"cut",
                                                                "cut midway",
                                                                "cut after",
                                                                "stall",
                                                                "blocked",
                                                                "garbage",
                                                                "flipped",
                                                                "short",
                                                                "byte lost",
                                                                "duplicated",
                                                                "reordered",
                                                                "oversized",
                                                                "huge",
                                                                "unknown type",
                                                                "version",
                                                                "out of turn",
                                                                "peer cancels",
                                                                "source cancels",
                                                                "destination cancels"};
  return kNames[static_cast<std::size_t>(fault)];
}

// A kind of piece: where in the protocol it is.
struct Place {
  enum class Part { kPreamble, kAnswer, kMessage, kRecord };
  Part part = Part::kMessage;
  ConnectionKind connection = ConnectionKind::kControl;
  bool outgoing = true;    // from the source
  std::uint32_t type = 0;  // a MessageType or RecordType
  [[nodiscard]] auto operator<=>(const Place&) const = default;

  [[nodiscard]] bool is(MessageType message) const {
    return part == Part::kMessage && type == static_cast<std::uint32_t>(message);
  }
};

inline Place message_place(bool outgoing, MessageType type,
                           ConnectionKind connection = ConnectionKind::kControl) {
  return {Place::Part::kMessage, connection, outgoing, static_cast<std::uint32_t>(type)};
}
inline Place record_place(RecordType type) {
  return {Place::Part::kRecord, ConnectionKind::kData, true, static_cast<std::uint32_t>(type)};
}
inline Place preamble_place(ConnectionKind connection) {
  return {Place::Part::kPreamble, connection, true, 0};
}
inline Place answer_place(ConnectionKind connection) {
  return {Place::Part::kAnswer, connection, false, 0};
}

// "COMMIT", "data preamble"; letters, digits and '_' only.
inline std::string to_string(const Place& place) {
  constexpr std::array<std::string_view, 4> kConnections{"", "Control", "Data", "Query"};
  const std::string connection(kConnections.at(static_cast<std::size_t>(place.connection)));
  switch (place.part) {
    case Place::Part::kPreamble:
      return connection + "Preamble";
    case Place::Part::kAnswer:
      return connection + "Answer";
    case Place::Part::kMessage:
      return std::string(to_string(static_cast<MessageType>(place.type))) +
             (place.outgoing ? "_fromSource" : "_fromDestination");
    case Place::Part::kRecord:
      break;
  }
  std::string name = "Record_" + std::string(to_string(static_cast<RecordType>(place.type)));
  std::ranges::replace(name, '-', '_');
  return name;
}

// What is done instead of passing a piece on.
struct FaultAction {
  enum class Then { kGoOn, kCut, kSwallow, kBlock };
  std::vector<std::byte> bytes;  // that are passed on
  Then then = Then::kGoOn;
};

namespace fault_details {

inline std::vector<std::byte> frame(const Message& message) {
  const auto payload = encode_payload(message).value();
  const auto header = encode(FrameHeader{static_cast<std::uint32_t>(type_of(message)),
                                         static_cast<std::uint32_t>(payload.size())});
  std::vector<std::byte> bytes(header.size() + payload.size());
  std::ranges::copy(payload, std::ranges::copy(header, bytes.begin()).out);
  return bytes;
}

// What the same side says next where all goes well, with nothing in it that gives the guest away:
// whoever can forge that has the guest.
inline Message next_message(MessageType type) {
  switch (type) {
    case MessageType::kManifest:
      return RoundEnd{1};
    case MessageType::kRoundEnd:
      return AskTime{};
    case MessageType::kAskTime:
      return Rehearse{};
    case MessageType::kRehearse:
      return State{};
    case MessageType::kState:
      return Verify{};
    case MessageType::kAccept:
      return RoundAck{1};
    case MessageType::kRoundAck:
      return TimeMessage{1};
    case MessageType::kTime:
      return Rehearsed{1};
    case MessageType::kRehearsed:
      return Prepared{1};
    case MessageType::kPrepared:
      return Digest{};
    case MessageType::kDigest:
      return Started{};
    case MessageType::kDiscarded:
    case MessageType::kOutcome:
      return Cancel{"enough"};
    default:
      return Done{};
  }
}

// Before the commit, what would give the guest away.
inline Message message_out_of_turn(MessageType type) {
  switch (type) {
    case MessageType::kManifest:
    case MessageType::kRoundEnd:
    case MessageType::kRehearse:
    case MessageType::kState:
    case MessageType::kAskTime:
      return Commit{1};
    case MessageType::kAccept:
    case MessageType::kRefuse:
    case MessageType::kRoundAck:
    case MessageType::kRehearsed:
    case MessageType::kPrepared:
    case MessageType::kDigest:
    case MessageType::kTime:
      return Started{};
    case MessageType::kOutcome:
    case MessageType::kStarted:
    case MessageType::kDiscarded:
      return Prepared{1};
    default:
      return Done{};
  }
}

template <typename T>
void put_at(std::vector<std::byte>& bytes, std::size_t at, T value) {
  std::memcpy(bytes.data() + at, &value, sizeof value);
}

// A message with its length, or a record with its number of pages, changed.
inline std::optional<FaultAction> resized(const Place& place, Fault fault,
                                          std::vector<std::byte> bytes) {
  if (place.part == Place::Part::kRecord) {
    if (fault == Fault::kShort) return std::nullopt;
    const std::uint64_t most =
        place.type == static_cast<std::uint32_t>(RecordType::kPages) ? kChunkPages : 1U << 20;
    put_at(bytes, 16, fault == Fault::kHuge ? ~std::uint64_t{0} : most + 1);
    return FaultAction{std::move(bytes)};
  }
  if (place.part == Place::Part::kAnswer) {
    if (fault == Fault::kShort) return std::nullopt;
    put_at(bytes, 13, fault == Fault::kHuge ? ~std::uint32_t{0} : std::uint32_t{kMaxText + 1});
    return FaultAction{std::move(bytes)};
  }
  if (place.part != Place::Part::kMessage) return std::nullopt;
  std::uint32_t length = ~std::uint32_t{0};
  if (fault == Fault::kShort) {
    if (bytes.size() == kFrameHeaderBytes) return std::nullopt;
    bytes.pop_back();
    length = static_cast<std::uint32_t>(bytes.size() - kFrameHeaderBytes);
  } else if (fault == Fault::kOversized) {
    length = static_cast<std::uint32_t>(max_payload(place.type).value() + 1);
  }
  put_at(bytes, 4, length);
  return FaultAction{std::move(bytes)};
}

// The piece with another one of the same direction in front, or in its place.
inline std::optional<FaultAction> with_other(const Place& place, Fault fault,
                                             std::vector<std::byte> bytes) {
  std::vector<std::byte> other;
  if (place.part == Place::Part::kMessage) {
    const auto type = static_cast<MessageType>(place.type);
    const auto message = fault == Fault::kReordered     ? next_message(type)
                         : fault == Fault::kPeerCancels ? Message(Cancel{"enough"})
                                                        : message_out_of_turn(type);
    other = frame(message);
  } else if (place.part == Place::Part::kRecord && fault != Fault::kPeerCancels) {
    // The end of a round that has not come to it.
    const auto header = encode_record({.type = RecordType::kRoundEnd, .pages = {}, .round = 100});
    other.assign(header.begin(), header.end());
  } else {
    return std::nullopt;
  }
  if (fault == Fault::kReordered) other.insert(other.end(), bytes.begin(), bytes.end());
  return FaultAction{std::move(other)};
}

inline std::optional<FaultAction> of_another_kind(const Place& place, Fault fault,
                                                  std::vector<std::byte> bytes) {
  const bool first = place.part == Place::Part::kPreamble || place.part == Place::Part::kAnswer;
  if (fault == Fault::kVersion) {
    if (!first) return std::nullopt;
    put_at(bytes, 8, std::uint32_t{2});
  } else if (place.part == Place::Part::kAnswer) {
    return std::nullopt;
  } else if (first) {
    bytes[12] = std::byte{9};
  } else {
    put_at(bytes, 0, std::uint32_t{99});
  }
  return FaultAction{std::move(bytes)};
}

}  // namespace fault_details

// What a fault does to a piece; nothing where it means nothing there.
inline std::optional<FaultAction> act(const Place& place, Fault fault,
                                      std::vector<std::byte> bytes) {
  using Then = FaultAction::Then;
  switch (fault) {
    case Fault::kCut:
      return FaultAction{{}, Then::kCut};
    case Fault::kCutMidway:
      bytes.resize(bytes.size() / 2);
      return FaultAction{std::move(bytes), Then::kCut};
    case Fault::kCutAfter:
      return FaultAction{std::move(bytes), Then::kCut};
    case Fault::kStall:
      return FaultAction{{}, Then::kSwallow};
    case Fault::kBlocked:
      if (!place.outgoing) return std::nullopt;  // as a stall
      return FaultAction{{}, Then::kBlock};
    case Fault::kGarbage:
      std::ranges::fill(bytes, std::byte{0xee});
      return FaultAction{std::move(bytes)};
    case Fault::kFlipped: {
      const bool message = place.part == Place::Part::kMessage;
      const std::size_t at = message                              ? kFrameHeaderBytes
                             : place.part == Place::Part::kRecord ? sizeof(RecordHeader)
                                                                  : 0;
      if (at >= bytes.size()) return std::nullopt;
      bytes[at] ^= std::byte{0xff};
      return FaultAction{std::move(bytes)};
    }
    case Fault::kByteLost:
      bytes.pop_back();
      return FaultAction{std::move(bytes)};
    case Fault::kDuplicated: {
      // Nobody says twice what a connection is for.
      if (place.part == Place::Part::kPreamble || place.part == Place::Part::kAnswer) {
        return std::nullopt;
      }
      auto twice = bytes;
      twice.insert(twice.end(), bytes.begin(), bytes.end());
      return FaultAction{std::move(twice)};
    }
    case Fault::kShort:
    case Fault::kOversized:
    case Fault::kHuge:
      return fault_details::resized(place, fault, std::move(bytes));
    case Fault::kReordered:
    case Fault::kOutOfTurn:
    case Fault::kPeerCancels:
      return fault_details::with_other(place, fault, std::move(bytes));
    case Fault::kUnknownType:
    case Fault::kVersion:
      return fault_details::of_another_kind(place, fault, std::move(bytes));
    case Fault::kSourceCancels:
    case Fault::kDestinationCancels:
      return FaultAction{std::move(bytes)};
  }
  return std::nullopt;
}

// What goes wrong on the source's connections, and what went over the control connection.
// Heartbeats count only where a fault is meant for them.
class FaultPlan {
 public:
  struct At {
    Place place;
    Fault fault = Fault::kCut;
    std::size_t number = 0;  // so many of the same kind have passed before
  };

  explicit FaultPlan(std::vector<At> at = {}) : at_(std::move(at)) {}

  // The fault of the piece that is about to pass.
  [[nodiscard]] std::optional<Fault> pass(const Place& place) {
    const bool control_message =
        place.part == Place::Part::kMessage && place.connection == ConnectionKind::kControl;
    const auto type = static_cast<MessageType>(place.type);
    if (control_message && type != MessageType::kHeartbeat && on_message) {
      on_message(place.outgoing, type);
    }
    std::optional<Fault> fault;
    {
      const std::lock_guard lock(mutex_);
      if (control_message && place.outgoing) sent_.push_back(type);
      const auto number = seen_[place]++;
      const auto found = std::ranges::find_if(
          at_, [&](const At& at) { return at.place == place && at.number == number; });
      if (found == at_.end()) return std::nullopt;
      fault = found->fault;
      fired_ = fired_ || found == at_.end() - 1;
    }
    if (*fault == Fault::kSourceCancels || *fault == Fault::kDestinationCancels) {
      on_cancel(*fault == Fault::kSourceCancels);
    }
    return fault;
  }
  // Whether any fault is meant for this kind of connection.
  [[nodiscard]] bool concerns(ConnectionKind connection) const {
    return std::ranges::any_of(at_,
                               [&](const At& at) { return at.place.connection == connection; });
  }
  // Whether the last of the faults has happened.
  [[nodiscard]] bool fired() const { return fired_; }
  [[nodiscard]] bool was_sent(MessageType type) {
    const std::lock_guard lock(mutex_);
    return std::ranges::count(sent_, type) > 0;
  }

  // Called before each message of the control connection passes.
  std::function<void(bool outgoing, MessageType type)> on_message;
  // An operator cancels, at the source or at the destination.
  std::function<void(bool at_source)> on_cancel = [](bool /*at_source*/) {};
  // Nobody answers queries.
  std::atomic<bool> no_answers = false;

 private:
  const std::vector<At> at_;
  std::mutex mutex_;
  std::atomic<bool> fired_ = false;
  std::vector<MessageType> sent_;
  std::map<Place, std::size_t> seen_;
};

}  // namespace vmm::migration
