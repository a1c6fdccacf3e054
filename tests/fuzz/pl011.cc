#include "devices/pl011.h"

#include "register_fuzzer.h"

// The serial port: registers, state, and what is typed.
namespace vmm::fuzz {
namespace {

class Line final : public InterruptLine {
 public:
  void set_level(bool) override {}
};

class Sink final : public SerialSink {
 public:
  void write(std::span<const std::byte> bytes) override { sent += bytes.size(); }
  std::size_t sent = 0;
};

void run(Input& input) {
  Line line;
  Sink sink;
  fuzz_registers(
      input,
      [&] {
        auto device = std::make_unique<Pl011>(line, sink);
        device->set_on_rx_space([] {});
        return device;
      },
      [](Pl011& device, Input& typed) {
        const auto bytes = typed.bytes(typed.get<std::uint8_t>());
        check(device.receive(bytes) <= bytes.size(), "no more is taken than is offered");
      });
}

const Target kTarget{"pl011", run};

}  // namespace
}  // namespace vmm::fuzz
