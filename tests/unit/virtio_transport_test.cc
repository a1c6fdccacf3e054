#include "devices/virtio/mmio_transport.h"

#include <linux/virtio_ids.h>

#include "virtio_rig.h"

namespace vmm::virtio {
namespace {

// Gives back every request with the text "pong" written to it.
class EchoDevice final : public VirtioDevice {
 public:
  [[nodiscard]] std::string_view name() const override { return "echo"; }
  [[nodiscard]] std::uint32_t type() const override { return VIRTIO_ID_RNG; }
  [[nodiscard]] std::uint64_t offered_features() const override { return 1; }
  [[nodiscard]] std::span<const QueueLimits> queue_limits() const override { return kQueues; }
  [[nodiscard]] std::vector<Counter> counters() const override { return {}; }

 protected:
  void read_config(std::uint64_t, std::span<std::byte> data) const override {
    std::ranges::fill(data, std::byte{0x5a});
  }
  void write_config(std::uint64_t, std::span<const std::byte>) override {}
  void activate() override {}
  void process(unsigned index) override {
    Queue& taken = *queue(index);
    for (;;) {
      auto popped = taken.pop(chain_);
      if (!popped) return transport().needs_reset(popped.error());
      if (!popped.value()) break;
      const auto writable = chain_.writable();
      if (!writable.empty()) std::memcpy(writable[0].iov_base, "pong", 4);
      taken.push(chain_, writable.empty() ? 0 : 4);
    }
    publish(taken);
  }
  void reset() override {}
  void quiesce() override {}
  void resume() override {}
  void save_state(ByteWriter& writer) const override { writer.put(std::uint32_t{1}); }
  [[nodiscard]] Result<> restore_state(ByteReader& reader) override {
    TRY(reader.get<std::uint32_t>());
    return reader.expect_end();
  }

 private:
  static constexpr std::array<QueueLimits, 2> kQueues{
      {{VirtioRig::kQueueSize, 1 << 20}, {VirtioRig::kQueueSize, 1 << 20}}};
  Chain chain_;
};

class MmioTransportTest : public ::testing::Test {
 protected:
  MmioTransportTest() { rig.attach(std::make_unique<EchoDevice>()); }
  VirtioRig rig;
};

TEST_F(MmioTransportTest, GivesRequestsBackAndInterrupts) {
  rig.start();
  const auto head = rig.submit(1, {{kRigBuffers, 16, true}});
  const auto used = rig.take_used(1);
  ASSERT_TRUE(used);
  EXPECT_EQ(used->id, head);
  EXPECT_EQ(used->len, 4U);
  EXPECT_EQ(rig.peek_text(kRigBuffers, 4), "pong");
  EXPECT_TRUE(rig.is_dirty(kRigBuffers));
  EXPECT_EQ(rig.edge.count, 1);
  EXPECT_EQ(rig.read(VIRTIO_MMIO_INTERRUPT_STATUS), VIRTIO_MMIO_INT_VRING);
}

}  // namespace
}  // namespace vmm::virtio
