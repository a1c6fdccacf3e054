#include "migration/handover.h"

#include <algorithm>
#include <cstddef>

namespace vmm::migration {
namespace {

template <typename State, typename Event>
struct Transition {
  State from;
  Event event;
  State to;
};

using S = SourceState;
using SE = SourceEvent;
constexpr Transition<S, SE> kSourceTransitions[] = {
    {S::kConnecting, SE::kConnected, S::kPreflight},
    {S::kPreflight, SE::kAccepted, S::kPrecopy},
    {S::kPrecopy, SE::kGuestPaused, S::kStopped},
    {S::kStopped, SE::kPeerPrepared, S::kPrepared},
    {S::kPrepared, SE::kDisksReleased, S::kReleased},
    {S::kReleased, SE::kCommitting, S::kCommitted},
    {S::kCommitted, SE::kPeerStarted, S::kDone},
    {S::kInDoubt, SE::kPeerStarted, S::kDone},
    {S::kInDoubt, SE::kResolvedDiscard, S::kDone},

    // Before the commit every failure leaves the guest here: the destination cannot have started.
    {S::kConnecting, SE::kFailure, S::kFailed},
    {S::kPreflight, SE::kFailure, S::kFailed},
    {S::kPrecopy, SE::kFailure, S::kFailed},
    {S::kStopped, SE::kFailure, S::kFailed},
    {S::kPrepared, SE::kFailure, S::kFailed},
    {S::kReleased, SE::kFailure, S::kFailed},
    {S::kPreflight, SE::kPeerDiscarded, S::kFailed},
    {S::kPrecopy, SE::kPeerDiscarded, S::kFailed},
    {S::kStopped, SE::kPeerDiscarded, S::kFailed},
    {S::kPrepared, SE::kPeerDiscarded, S::kFailed},
    {S::kReleased, SE::kPeerDiscarded, S::kFailed},

    // Behind it only knowledge gives the guest back, and a failure is no knowledge.
    {S::kCommitted, SE::kPeerDiscarded, S::kFailed},
    {S::kCommitted, SE::kFailure, S::kInDoubt},
    {S::kInDoubt, SE::kFailure, S::kInDoubt},
    {S::kInDoubt, SE::kPeerDiscarded, S::kFailed},
    {S::kInDoubt, SE::kResolvedResume, S::kFailed},
};

using D = DestinationState;
using DE = DestinationEvent;
constexpr Transition<D, DE> kDestinationTransitions[] = {
    {D::kListening, DE::kManifestAccepted, D::kReceiving},
    {D::kReceiving, DE::kPrepared, D::kPrepared},
    {D::kPrepared, DE::kCommitReceived, D::kStarting},
    {D::kStarting, DE::kRecordedStart, D::kRunning},
    {D::kListening, DE::kFailure, D::kDiscarded},
    {D::kReceiving, DE::kFailure, D::kDiscarded},
    {D::kPrepared, DE::kFailure, D::kDiscarded},
    {D::kStarting, DE::kFailure, D::kDiscarded},
};

template <typename State, typename Event, std::size_t N>
std::optional<State> find(const Transition<State, Event> (&table)[N], State state, Event event) {
  for (const auto& transition : table) {
    if (transition.from == state && transition.event == event) return transition.to;
  }
  return std::nullopt;
}

}  // namespace

std::optional<SourceState> next(SourceState state, SourceEvent event) {
  return find(kSourceTransitions, state, event);
}

bool may_run(SourceState state) {
  switch (state) {
    case S::kConnecting:
    case S::kPreflight:
    case S::kPrecopy:
    case S::kFailed:
      return true;
    case S::kStopped:
    case S::kPrepared:
    case S::kReleased:
    case S::kCommitted:
    case S::kInDoubt:
    case S::kDone:
      return false;
  }
  return false;
}

bool may_cancel(SourceState state) {
  switch (state) {
    case S::kConnecting:
    case S::kPreflight:
    case S::kPrecopy:
    case S::kStopped:
    case S::kPrepared:
    case S::kReleased:
      return true;
    case S::kCommitted:
    case S::kInDoubt:
    case S::kDone:
    case S::kFailed:
      return false;
  }
  return false;
}

std::string_view to_string(SourceState state) {
  switch (state) {
    case S::kConnecting:
      return "connecting";
    case S::kPreflight:
      return "preflight";
    case S::kPrecopy:
      return "precopy";
    case S::kStopped:
      return "stopped";
    case S::kPrepared:
      return "prepared";
    case S::kReleased:
      return "released";
    case S::kCommitted:
      return "committed";
    case S::kInDoubt:
      return "in doubt";
    case S::kDone:
      return "done";
    case S::kFailed:
      return "failed";
  }
  return "unknown";
}

std::string_view to_string(SourceEvent event) {
  switch (event) {
    case SE::kConnected:
      return "connected";
    case SE::kAccepted:
      return "accepted";
    case SE::kGuestPaused:
      return "guest paused";
    case SE::kPeerPrepared:
      return "peer prepared";
    case SE::kDisksReleased:
      return "disks released";
    case SE::kCommitting:
      return "committing";
    case SE::kPeerStarted:
      return "peer started";
    case SE::kPeerDiscarded:
      return "peer discarded";
    case SE::kFailure:
      return "failure";
    case SE::kResolvedResume:
      return "resolved: resume";
    case SE::kResolvedDiscard:
      return "resolved: discard";
  }
  return "unknown";
}

std::optional<DestinationState> next(DestinationState state, DestinationEvent event) {
  return find(kDestinationTransitions, state, event);
}

bool may_run(DestinationState state) {
  return state == D::kRunning;
}

std::string_view to_string(DestinationState state) {
  switch (state) {
    case D::kListening:
      return "listening";
    case D::kReceiving:
      return "receiving";
    case D::kPrepared:
      return "prepared";
    case D::kStarting:
      return "starting";
    case D::kRunning:
      return "running";
    case D::kDiscarded:
      return "discarded";
  }
  return "unknown";
}

std::string_view to_string(DestinationEvent event) {
  switch (event) {
    case DE::kManifestAccepted:
      return "manifest accepted";
    case DE::kPrepared:
      return "prepared";
    case DE::kCommitReceived:
      return "commit received";
    case DE::kRecordedStart:
      return "start recorded";
    case DE::kFailure:
      return "failure";
  }
  return "unknown";
}

std::chrono::steady_clock::time_point saved_at(const Commit& commit,
                                               std::chrono::steady_clock::time_point begun,
                                               std::chrono::steady_clock::time_point received_at) {
  return std::clamp(begun + std::chrono::nanoseconds(commit.saved_ns), received_at - kMaxSinceSave,
                    received_at);
}

}  // namespace vmm::migration
