#pragma once

#include "virtio_echo_device.h"
#include "virtio_rig.h"

namespace vmm::virtio {

// A transport with an EchoDevice that runs, and a driver.
class EchoFixture : public ::testing::Test {
 protected:
  static constexpr std::uint32_t kAcknowledged =
      VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER;
  static constexpr std::uint32_t kNegotiated = kAcknowledged | VIRTIO_CONFIG_S_FEATURES_OK;
  static constexpr std::uint32_t kStarted = kNegotiated | VIRTIO_CONFIG_S_DRIVER_OK;
  static constexpr std::uint64_t kVersion1 = std::uint64_t{1} << VIRTIO_F_VERSION_1;

  EchoFixture() {
    rig.attach(std::make_unique<EchoDevice>());
    (void)echo().take_calls();
  }
  [[nodiscard]] EchoDevice& echo() { return static_cast<EchoDevice&>(rig.transport->device()); }

  // Brings the status to one of the steps above.
  void go_to(std::uint32_t status) {
    if (status == kStarted) return rig.start();
    rig.write(VIRTIO_MMIO_STATUS, status & kAcknowledged);
    rig.write_features(kVersion1);
    rig.write(VIRTIO_MMIO_STATUS, status);
  }
  // A request to the queue comes back.
  void expect_works(unsigned queue = 0) {
    const auto head = rig.submit(queue, {{kRigBuffers, 16, true}});
    const auto used = rig.take_used(queue);
    ASSERT_TRUE(used);
    EXPECT_EQ(used->id, head);
    EXPECT_EQ(used->len, 4U);
  }

  VirtioRig rig;
};

}  // namespace vmm::virtio
