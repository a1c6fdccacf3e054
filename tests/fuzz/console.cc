#include "devices/virtio/console.h"

#include "device_fuzzer.h"

// The virtio console: output, input and the size of the terminal.
namespace vmm::fuzz {
namespace {

class Sink final : public SerialSink {
 public:
  void write(std::span<const std::byte> bytes) override {
    // Reads all of it, as a real one does.
    for (const std::byte byte : bytes) sum += std::to_integer<unsigned>(byte);
  }
  unsigned sum = 0;
};

void run(Input& input) {
  Sink sink;
  DeviceFuzzer fuzzer(
      [&](GuestMemory&, EventLoop&) {
        auto console = std::make_unique<virtio::Console>(sink);
        console->set_on_rx_space([] {});
        return console;
      },
      [](virtio::VirtioDevice& device, Input& events) {
        auto& console = static_cast<virtio::Console&>(device);
        if (events.below(4) == 0) {
          const auto cols = events.get<std::uint16_t>();
          return console.set_size(cols, events.get<std::uint16_t>());
        }
        // More than is left in the input: it repeats.
        const auto text = events.bytes(events.get<std::uint8_t>());
        std::vector<std::byte> typed(text.begin(), text.end());
        typed.resize(events.get<std::uint16_t>(), std::byte{'x'});
        check(console.receive(typed) <= typed.size(), "no more is taken than is offered");
      });
  fuzzer.run(input);
}

const Target kTarget{"console", run};

}  // namespace
}  // namespace vmm::fuzz
