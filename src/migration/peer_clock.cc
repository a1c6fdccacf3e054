#include "migration/peer_clock.h"

#include <algorithm>

namespace vmm::migration {
namespace {

// Clocks of machines run at the same speed to within some 50 parts in a million: 3 ms in this time.
constexpr std::chrono::minutes kFresh{1};

}  // namespace

void PeerClock::learn(Clock::time_point asked, std::chrono::nanoseconds theirs,
                      Clock::time_point answered) {
  const auto took = answered - asked;
  if (took_ && took >= *took_) return;
  took_ = took;
  middle_ = asked + took / 2;
  theirs_ = theirs;
}

bool PeerClock::is_stale(Clock::time_point now) const {
  return !took_ || now - middle_ > kFresh;
}

std::chrono::nanoseconds PeerClock::at(Clock::time_point when) const {
  return std::max(theirs_ + (when - middle_), std::chrono::nanoseconds(0));
}

}  // namespace vmm::migration
