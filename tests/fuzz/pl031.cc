#include "devices/pl031.h"

#include "register_fuzzer.h"

// The clock: registers, state, and time, which goes on and is set.
namespace vmm::fuzz {
namespace {

class Line final : public InterruptLine {
 public:
  void set_level(bool) override {}
};

class WallClock final : public Clock {
 public:
  [[nodiscard]] std::int64_t wall_seconds() const override { return now; }
  std::int64_t now = 1'700'000'000;
};

class Timer final : public AlarmTimer {
 public:
  void arm_at(std::optional<std::int64_t>) override {}
};

void run(Input& input) {
  Line line;
  WallClock clock;
  Timer timer;
  fuzz_registers(
      input, [&] { return std::make_unique<Pl031>(line, clock, timer); },
      [&](Pl031& device, Input& events) {
        switch (events.below(3)) {
          case 0:
            clock.now += events.get<std::uint8_t>();
            break;
          case 1:  // somebody sets the host's clock, to a time this century
            clock.now = events.get<std::uint32_t>() / 2;
            break;
          default:
            device.on_alarm();
            break;
        }
      });
}

const Target kTarget{"pl031", run};

}  // namespace
}  // namespace vmm::fuzz
