#include <array>

#include "guest_fixture.h"

namespace vmm::kvm {
namespace {

using EventfdTest = GuestTest;

std::uint64_t take(const Fd& fd) {
  std::uint64_t count = 0;
  return ::read(fd.get(), &count, sizeof count) < 0 ? 0 : count;
}

TEST_F(EventfdTest, AKickIsAnEventAndNoExitWhereAddressAndValueMatch) {
  constexpr std::array<std::uint32_t, 6> kCode{
      0x52800061,  // mov  w1, #3
      0xb9005001,  // str  w1, [x0, #0x50]
      0x52800081,  // mov  w1, #4
      0xb9005001,  // str  w1, [x0, #0x50]
      0xb9005401,  // str  w1, [x0, #0x54]
      0x14000000,  // b    .
  };
  start(kCode);
  auto fd = make_eventfd().value();
  ASSERT_TRUE(vm_->add_ioeventfd(fd, kDevice + 0x50, 3));
  // The first store passes without an exit; the one of another value does not.
  expect_write(0x50, 4, 4);
  EXPECT_EQ(take(fd), 1U);
  expect_write(0x54, 4, 4);
  EXPECT_EQ(take(fd), 0U);
}

TEST_F(EventfdTest, TheSameKickTwiceIsRefused) {
  start({});
  auto fd = make_eventfd().value();
  ASSERT_TRUE(vm_->add_ioeventfd(fd, kDevice + 0x50, 3));
  EXPECT_FALSE(vm_->add_ioeventfd(fd, kDevice + 0x50, 3));
}

TEST_F(EventfdTest, AnEventMakesAnEdgeTriggeredInterruptPending) {
  // Makes all of SPI 0 to 15 edge-triggered, reports, then reports what is pending on and on.
  constexpr std::array<std::uint32_t, 8> kCode{
      0xd2a10002,  // mov  x2, #0x08000000
      0x52955541,  // mov  w1, #0xaaaa
      0x72b55541,  // movk w1, #0xaaaa, lsl #16
      0xb90c0841,  // str  w1, [x2, #0xc08]  (ICFGR2)
      0xf9000001,  // str  x1, [x0]
      0xb9420441,  // ldr  w1, [x2, #0x204]  (ISPENDR1)
      0xf9000401,  // str  x1, [x0, #8]
      0x17fffffe,  // b    -8
  };
  start(kCode);
  auto fd = make_eventfd().value();
  ASSERT_TRUE(vm_->add_irqfd(fd, 5));
  static_cast<void>(run_to<MmioWrite>());
  EXPECT_EQ(written(), 0U);
  signal_eventfd(fd);
  // KVM raises it from a work queue.
  std::uint64_t pending = 0;
  for (int tries = 0; tries < 100'000 && pending == 0; ++tries) pending = written();
  EXPECT_EQ(pending, 1U << 5);
}

}  // namespace
}  // namespace vmm::kvm
