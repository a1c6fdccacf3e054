#include "device_fuzzer.h"
#include "virtio_echo_device.h"

// The state of a transport, from a peer: the first bytes say how long it is, the rest is what the
// guest does then.
namespace vmm::fuzz {
namespace {

void run(Input& input) {
  const auto state = input.bytes(input.get<std::uint8_t>());
  DeviceFuzzer fuzzer(
      [](GuestMemory&, EventLoop&) { return std::make_unique<virtio::EchoDevice>(); });
  if (fuzzer.restore(state)) fuzzer.run(input);
}

const Target kTarget{"transport_state", run};

}  // namespace
}  // namespace vmm::fuzz
