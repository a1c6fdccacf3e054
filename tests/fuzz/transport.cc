#include "device_fuzzer.h"
#include "virtio_echo_device.h"

// The transport, with a device that gives back what it gets.
namespace vmm::fuzz {
namespace {

void run(Input& input) {
  DeviceFuzzer fuzzer(
      [](GuestMemory&, EventLoop&) { return std::make_unique<virtio::EchoDevice>(); },
      [](virtio::VirtioDevice& device, Input& events) {
        auto& echo = static_cast<virtio::EchoDevice&>(device);
        switch (events.below(4)) {
          case 0:
            // Only a device that looks at its queues finds that out.
            if (echo.is_active()) echo.find_protocol_broken();
            return;
          case 1:
            return echo.ask_again(events.below(2));
          default:
            return echo.change_config();
        }
      });
  fuzzer.run(input);
}

const Target kTarget{"transport", run};

}  // namespace
}  // namespace vmm::fuzz
