#include <array>
#include <atomic>
#include <thread>

#include "guest_fixture.h"

namespace vmm::kvm {
namespace {

// Function numbers of PSCI (ARM DEN 0022), by their low halves.
constexpr std::uint32_t kMovW0SystemOff = 0x52800100;    // mov w0, #0x8
constexpr std::uint32_t kMovW0SystemReset = 0x52800120;  // mov w0, #0x9

struct PsciCase {
  const char* name;
  std::uint32_t first;
  SystemEvent event;
};

class PsciTest : public GuestTest, public ::testing::WithParamInterface<PsciCase> {};

TEST_P(PsciTest, SystemCallsOfTheGuestAreEvents) {
  const std::array<std::uint32_t, 4> code{
      GetParam().first,
      0x72b08000,  // movk w0, #0x8400, lsl #16
      0xd4000002,  // hvc  #0
      0x14000000,  // b    .
  };
  start(code);
  EXPECT_EQ(run_to<SystemEvent>(), GetParam().event);
}

INSTANTIATE_TEST_SUITE_P(All, PsciTest,
                         ::testing::Values(PsciCase{"off", kMovW0SystemOff, SystemEvent::kShutdown},
                                           PsciCase{"reset", kMovW0SystemReset,
                                                    SystemEvent::kReset}),
                         [](const auto& test) { return test.param.name; });

using PowerTest = GuestTest;

TEST_F(PowerTest, ASecondVcpuWaitsUntilItIsTurnedOn) {
  constexpr std::uint64_t kSecondEntry = 0x40;
  constexpr std::array<std::uint32_t, 10> kCode{
      0xf9000000,  // str  x0, [x0]
      0xaa0003e9,  // mov  x9, x0
      0x52800060,  // mov  w0, #0x3          CPU_ON, 64-bit
      0x72b88000,  // movk w0, #0xc400, lsl #16
      0xd2800021,  // mov  x1, #1            affinity
      0xd2a80002,  // mov  x2, #0x40000000
      0xf2800802,  // movk x2, #0x40         entry
      0xd297dde3,  // mov  x3, #0xbeef       context
      0xd4000002,  // hvc  #0
      0xf9000520,  // str  x0, [x9, #8]      then falls into the loop below
  };
  constexpr std::array<std::uint32_t, 1> kLoop{0x14000000};  // b .
  constexpr std::array<std::uint32_t, 3> kSecond{
      0xd2a12009,  // mov x9, #0x9000000
      0xf9000920,  // str x0, [x9, #16]
      0x14000000,  // b   .
  };
  start(kCode, 2);
  put_code(kCode.size() * sizeof(std::uint32_t), kLoop);
  put_code(kSecondEntry, kSecond);

  std::atomic<bool> second_ran = false;
  std::thread second([&] {
    expect_write(16, 0xbeef, 8, 1);
    second_ran = true;
  });
  expect_write(0, kDevice);
  EXPECT_FALSE(second_ran);
  expect_write(8, 0);  // PSCI SUCCESS
  second.join();
  EXPECT_TRUE(second_ran);
}

}  // namespace
}  // namespace vmm::kvm
