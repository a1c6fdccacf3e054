#pragma once

#include <chrono>
#include <optional>

namespace vmm::migration {

// The destination's clock, as the source knows it from its answers: the one that came quickest says
// most, as it is right to within half of the time that it took (F. Cristian, "Probabilistic clock
// synchronization", 1989). Not for several threads.
class PeerClock {
 public:
  using Clock = std::chrono::steady_clock;

  // The peer's clock showed `theirs` at some moment between `asked` and `answered`.
  void learn(Clock::time_point asked, std::chrono::nanoseconds theirs, Clock::time_point answered);
  // Whether it is to be asked: it never was, or so long ago that clocks may have drifted apart.
  [[nodiscard]] bool is_stale(Clock::time_point now) const;
  // What the peer's clock shows at `when`; there has been an answer.
  [[nodiscard]] std::chrono::nanoseconds at(Clock::time_point when) const;

 private:
  std::optional<Clock::duration> took_;
  Clock::time_point middle_;
  std::chrono::nanoseconds theirs_{};
};

}  // namespace vmm::migration
