#include <pthread.h>
#include <signal.h>

#include <array>
#include <atomic>
#include <future>
#include <thread>

#include "guest_fixture.h"

namespace vmm::kvm {
namespace {

constexpr std::array<std::uint32_t, 2> kWriteThenLoop{
    0xf9000000,  // str x0, [x0]
    0x14000000,  // b   .
};

class RunTest : public GuestTest {
 protected:
  RunTest() {
    struct sigaction action {};
    action.sa_handler = [](int) {};
    ::sigaction(SIGUSR1, &action, nullptr);
  }
};

TEST_F(RunTest, ARequestToLeaveComesBeforeTheFirstInstruction) {
  start(kWriteThenLoop);
  vcpu().request_exit();
  run_to<Interrupted>();
  run_to<Interrupted>();  // stays until it is taken back
  EXPECT_EQ(vcpu().program_counter().value(), kRam);
  vcpu().allow_run();
  expect_write(0, kDevice);
}

TEST_F(RunTest, RequestAndSignalEndAnEndlessLoop) {
  start(kWriteThenLoop);
  std::promise<void> in_loop;
  std::thread runner([&] {
    expect_write(0, kDevice);
    in_loop.set_value();
    run_to<Interrupted>();
  });
  in_loop.get_future().wait();
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  vcpu().request_exit();
  ASSERT_EQ(::pthread_kill(runner.native_handle(), SIGUSR1), 0);
  runner.join();
  EXPECT_EQ(vcpu().program_counter().value(), kRam + 4);
}

TEST_F(RunTest, TheSignalAloneEndsALoopToo) {
  start(kWriteThenLoop);
  std::promise<void> in_loop;
  std::atomic<bool> left = false;
  std::thread runner([&] {
    expect_write(0, kDevice);
    in_loop.set_value();
    run_to<Interrupted>();
    left = true;
  });
  in_loop.get_future().wait();
  // Without the request a signal may come before the guest is entered, and be lost.
  while (!left) {
    ::pthread_kill(runner.native_handle(), SIGUSR1);
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  runner.join();
}

TEST_F(RunTest, EachVcpuHasTheAffinityItsGuestSees) {
  constexpr std::array<std::uint32_t, 3> kCode{
      0xd53800a1,  // mrs x1, mpidr_el1
      0xf9000001,  // str x1, [x0]
      0x14000000,  // b   .
  };
  start(kCode, 16);
  constexpr std::uint64_t kAffinityMask = 0xff'00ff'ffff;
  EXPECT_EQ(written() & kAffinityMask, vcpu(0).affinity().value());
  for (unsigned index = 0; index < 16; ++index) {
    EXPECT_EQ(vcpu(index).affinity().value(), index);
  }
}

TEST_F(RunTest, AnInterruptLineIsPendingWhileItIsHigh) {
  constexpr std::array<std::uint32_t, 5> kCode{
      0xd2a10002,  // mov x2, #0x8000000      GICD
      0xb90c085f,  // str wzr, [x2, #0xc08]   GICD_ICFGR2: INTID 32 to 47 are level-sensitive
      0xb9420441,  // ldr w1, [x2, #0x204]    GICD_ISPENDR1: INTID 32 to 63
      0xf9000001,  // str x1, [x0]
      0x17fffffe,  // b   . - 8
  };
  start(kCode);
  EXPECT_EQ(written(), 0U);
  ASSERT_TRUE(vm_->set_spi_level(5, true));
  EXPECT_EQ(written(), 1U << 5);
  ASSERT_TRUE(vm_->set_spi_level(0, true));
  EXPECT_EQ(written(), 1U << 5 | 1U);
  ASSERT_TRUE(vm_->set_spi_level(5, false));
  EXPECT_EQ(written(), 1U);
  EXPECT_FALSE(vm_->set_spi_level(kSpiCount, true)) << "this GIC has no such input";
}

struct FeatureCase {
  const char* name;
  bool Capabilities::*offered;
  bool VcpuFeatures::*wanted;
  std::uint32_t read_register;  // mrs x1, ID register
  std::uint64_t fields;         // of it; not zero where the guest has the feature
};

class FeatureTest : public GuestTest, public ::testing::WithParamInterface<FeatureCase> {};

constexpr std::array<std::uint32_t, 3> id_code(std::uint32_t read_register) {
  return {
      read_register,
      0xf9000001,  // str x1, [x0]
      0x14000000,  // b   .
  };
}

TEST_P(FeatureTest, IsHiddenUnlessAskedFor) {
  start(id_code(GetParam().read_register));
  EXPECT_EQ(written() & GetParam().fields, 0U);
}

TEST_P(FeatureTest, IsSeenByTheGuestWhereAskedForAndOffered) {
  const auto capabilities = System::open().value().capabilities().value();
  VcpuFeatures features;
  features.*(GetParam().wanted) = true;
  if (!(capabilities.*(GetParam().offered))) {
    auto vm = System::open().value().create_vm(kIpaBits).value();
    EXPECT_FALSE(vm.create_vcpu(0, features)) << "not offered, and so refused";
    return;
  }
  start(id_code(GetParam().read_register), 1, features);
  if (features.pmu) {
    ASSERT_TRUE(vcpu().init_pmu(23));
  }
  EXPECT_NE(written() & GetParam().fields, 0U);
}

INSTANTIATE_TEST_SUITE_P(
    All, FeatureTest,
    ::testing::Values(
        // ID_AA64PFR0_EL1.SVE
        FeatureCase{"sve", &Capabilities::sve, &VcpuFeatures::sve, 0xd5380401, 0xfULL << 32},
        // ID_AA64ISAR1_EL1.{APA, API, GPA, GPI}
        FeatureCase{"pauth", &Capabilities::pauth, &VcpuFeatures::pauth, 0xd5380621,
                    0xffULL << 4 | 0xffULL << 24},
        // ID_AA64DFR0_EL1.PMUVer
        FeatureCase{"pmu", &Capabilities::pmu, &VcpuFeatures::pmu, 0xd5380501, 0xfULL << 8}),
    [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace vmm::kvm
