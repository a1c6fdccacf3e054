#include "devices/virtio/balloon.h"

#include "device_fuzzer.h"

// The balloon: pages given up and reported, statistics, and what the host wants.
namespace vmm::fuzz {
namespace {

void run(Input& input) {
  DeviceFuzzer fuzzer(
      [](GuestMemory& memory, EventLoop& loop) {
        return std::make_unique<virtio::Balloon>(memory, loop);
      },
      [](virtio::VirtioDevice& device, Input& events) {
        auto& balloon = static_cast<virtio::Balloon&>(device);
        switch (events.below(4)) {
          case 0:
            return balloon.set_target(events.get<std::uint32_t>());
          case 1:
            return balloon.request_statistics();
          case 2:
            return balloon.set_statistics_period(std::chrono::seconds(events.get<std::uint8_t>()));
          default:
            check(balloon.status().target <= DeviceFuzzer::kRamSize, "a target is within RAM");
            return;
        }
      });
  fuzzer.run(input);
}

const Target kTarget{"balloon", run};

}  // namespace
}  // namespace vmm::fuzz
