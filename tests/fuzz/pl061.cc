#include "devices/pl061.h"

#include "register_fuzzer.h"

// The general purpose inputs: registers, state, and the levels of the lines.
namespace vmm::fuzz {
namespace {

class Line final : public InterruptLine {
 public:
  void set_level(bool) override {}
};

void run(Input& input) {
  Line line;
  fuzz_registers(
      input, [&] { return std::make_unique<Pl061>(line); },
      [](Pl061& device, Input& events) {
        const unsigned what = events.get<std::uint8_t>();
        device.set_input(what % Pl061::kLines, (what & 0x80) != 0);
      });
}

const Target kTarget{"pl061", run};

}  // namespace
}  // namespace vmm::fuzz
