#include <atomic>
#include <thread>

#include "virtio_echo_fixture.h"

// Several vCPUs at the registers while the event loop works and the machine is stopped and saved:
// what ThreadSanitizer looks at.
namespace vmm::virtio {
namespace {

class VirtioThreadsTest : public EchoFixture {
 protected:
  static constexpr int kVcpus = 3;
  static constexpr int kRounds = 300;

  // Runs `vcpu(number, round)` on threads, and the loop here, until all are done.
  template <typename Vcpu, typename Turn>
  void run(Vcpu vcpu, Turn turn) {
    std::atomic<int> running = kVcpus;
    std::vector<std::jthread> threads;
    for (int number = 0; number < kVcpus; ++number) {
      threads.emplace_back([&, number] {
        for (int round = 0; round < kRounds; ++round) vcpu(number, round);
        --running;
      });
    }
    while (running != 0) {
      (void)rig.loop.turn();
      turn();
    }
    threads.clear();
    EXPECT_TRUE(rig.loop.settle());
  }
};

TEST_F(VirtioThreadsTest, SurvivesVcpusThatStartKickAndResetAtOnce) {
  // Requests are there whenever a queue starts; the threads leave memory alone.
  for (unsigned queue = 0; queue < 2; ++queue) {
    for (std::uint16_t head = 0; head < VirtioRig::kQueueSize; ++head) {
      rig.put_descriptor(VirtioRig::table(queue) + head * 16ULL,
                         {kRigBuffers, 16, VRING_DESC_F_WRITE, 0});
      rig.poke(VirtioRig::available(queue) + 4 + head * 2ULL, head);
    }
    rig.poke(VirtioRig::available(queue) + 2, VirtioRig::kQueueSize);
  }
  std::vector<std::byte> state;
  run(
      [&](int number, int round) {
        if (round % 7 == number) rig.write(VIRTIO_MMIO_STATUS, 0);
        go_to(kNegotiated);
        rig.set_queue(static_cast<unsigned>(number) % 2);
        rig.write(VIRTIO_MMIO_STATUS, kStarted);
        rig.kick(static_cast<unsigned>(round) % 2);
        mmio_write(*rig.transport, VIRTIO_MMIO_CONFIG, static_cast<std::uint64_t>(round), 8);
        (void)mmio_read(*rig.transport, VIRTIO_MMIO_CONFIG, 8);
        (void)rig.read(VIRTIO_MMIO_CONFIG_GENERATION);
        rig.write(VIRTIO_MMIO_INTERRUPT_ACK, rig.read(VIRTIO_MMIO_INTERRUPT_STATUS));
      },
      [&] {
        echo().change_config();
        rig.transport->quiesce();
        state = saved(*rig.transport);
        rig.transport->resume();
      });
  EXPECT_FALSE(state.empty());
  rig.write(VIRTIO_MMIO_STATUS, 0);
  for (unsigned queue = 0; queue < 2; ++queue) {
    rig.poke(VirtioRig::available(queue) + 2, std::uint16_t{0});
    rig.poke(VirtioRig::used(queue) + 2, std::uint16_t{0});
  }
  rig.start();
  expect_works();
}

TEST_F(VirtioThreadsTest, LosesNoKickOfSeveralVcpus) {
  rig.start();
  (void)echo().take_calls();
  rig.add(0, {{kRigBuffers, 16, true}});
  rig.add(1, {{kRigBuffers, 16, true}});
  run([&](int, int round) { rig.kick(static_cast<unsigned>(round) % 2); }, [] {});
  EXPECT_TRUE(rig.take_used(0));
  EXPECT_TRUE(rig.take_used(1));
}

}  // namespace
}  // namespace vmm::virtio
