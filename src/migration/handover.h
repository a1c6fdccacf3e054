#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string_view>

#include "migration/messages.h"

namespace vmm::migration {

// The two-phase handover as pure state machines (docs/migration-protocol.md has the diagrams). Who
// drives one does what a state says; an event that a state does not allow is a protocol error of
// the peer or a bug of ours.

// --- Source ---

enum class SourceState : std::uint8_t {
  kConnecting,  // no answer yet
  kPreflight,   // manifest sent, no RAM yet
  kPrecopy,     // rounds while the guest runs
  kStopped,     // guest paused, last pages and state under way
  kPrepared,    // the destination has everything and does not start it
  kReleased,    // disks flushed and unlocked
  kCommitted,   // COMMIT may have been sent: the guest is no longer ours to run
  kInDoubt,     // the link broke after COMMIT; nobody here knows whether the destination started
  kDone,        // the destination runs the guest
  kFailed,      // the guest is ours, as if nothing had happened
};

enum class SourceEvent : std::uint8_t {
  kConnected,        // hello answered
  kAccepted,         // the destination takes the manifest
  kGuestPaused,      // nothing changes guest memory any more
  kPeerPrepared,     // PREPARED received, digests equal where they were asked for
  kDisksReleased,    //
  kCommitting,       // about to send COMMIT
  kPeerStarted,      // STARTED received, or an answer that says so
  kPeerDiscarded,    // DISCARDED received, or an answer that says so: it will never start
  kFailure,          // anything else went wrong: link, peer, our host, cancel, limits
  kResolvedResume,   // the operator says the destination does not run the guest
  kResolvedDiscard,  // the operator says it does
};

// The state after an event, or nothing where the state does not allow it.
[[nodiscard]] std::optional<SourceState> next(SourceState state, SourceEvent event);

// Whether the source may run the guest's vCPUs in a state.
[[nodiscard]] bool may_run(SourceState state);
// Whether cancel still is possible.
[[nodiscard]] bool may_cancel(SourceState state);
[[nodiscard]] std::string_view to_string(SourceState state);
[[nodiscard]] std::string_view to_string(SourceEvent event);

// --- Destination ---

enum class DestinationState : std::uint8_t {
  kListening,  // waits for a manifest
  kReceiving,  // machine built, RAM and rehearsals come in
  kPrepared,   // RAM complete, state restored, PREPARED sent
  kStarting,   // COMMIT received: disks are taken, the decision is recorded
  kRunning,    // the guest is ours
  kDiscarded,  // it never will be
};

enum class DestinationEvent : std::uint8_t {
  kManifestAccepted,
  kPrepared,        // final state restored
  kCommitReceived,  //
  kRecordedStart,   // disks are held and the decision record says "started", durably
  kFailure,         // anything else: link, peer, our host, cancel; or the record says "discarded"
};

[[nodiscard]] std::optional<DestinationState> next(DestinationState state, DestinationEvent event);
[[nodiscard]] bool may_run(DestinationState state);
[[nodiscard]] std::string_view to_string(DestinationState state);
[[nodiscard]] std::string_view to_string(DestinationEvent event);

// --- Time ---

// When the guest's counters were read, by COMMIT, in a session that began at `begun`. As far as
// that can be: not behind `received_at`, when COMMIT was read, and not longer than kMaxSinceSave
// before.
[[nodiscard]] std::chrono::steady_clock::time_point saved_at(
    const Commit& commit, std::chrono::steady_clock::time_point begun,
    std::chrono::steady_clock::time_point received_at);

}  // namespace vmm::migration
