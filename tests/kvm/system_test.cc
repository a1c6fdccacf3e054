#include "kvm/system.h"

#include <gmock/gmock.h>

#include <bit>

#include "guest_fixture.h"

namespace vmm::kvm {
namespace {

using ::testing::HasSubstr;

System open_system() {
  auto system = System::open();
  if (!system) {
    ADD_FAILURE() << system.error().message();
    std::abort();
  }
  return std::move(system).value();
}

TEST(SystemTest, RefusesWhatIsNotKvm) {
  struct Case {
    const char* path;
    const char* words;
  };
  for (const auto& [path, words] :
       {Case{"/dev/no-kvm-here", "/dev/no-kvm-here does not exist"},
        Case{"/dev/null", "KVM_GET_API_VERSION"}, Case{"/dev", "/dev"}}) {
    const auto system = System::open(path);
    ASSERT_FALSE(system) << path;
    EXPECT_EQ(system.error().kind(), ErrorKind::kHost) << path;
    EXPECT_THAT(system.error().message(), HasSubstr(words));
  }
}

TEST(SystemTest, CapabilitiesAreThoseOfAnArm64Host) {
  const auto system = open_system();
  const auto found = system.capabilities();
  ASSERT_TRUE(found) << found.error().message();
  const auto& capabilities = found.value();
  EXPECT_GE(capabilities.max_vcpus, 16U);
  EXPECT_GE(capabilities.ipa_bits, 36U);
  EXPECT_LE(capabilities.ipa_bits, 52U);
  EXPECT_TRUE(capabilities.gicv3);
  EXPECT_TRUE(capabilities.psci);
  EXPECT_TRUE(capabilities.ioeventfd);
  EXPECT_TRUE(capabilities.irqfd);
  EXPECT_TRUE(capabilities.inject_abort);
  EXPECT_TRUE(capabilities.manual_dirty_protect);
  EXPECT_TRUE(capabilities.dirty_initially_set);
  EXPECT_EQ(capabilities.eager_split, capabilities.block_sizes != 0);
  EXPECT_EQ(capabilities.block_sizes & 0xfff, 0U) << "sizes of blocks, so at least a page each";
}

TEST(SystemTest, OffersTheGuestAddressBitsItNames) {
  const auto system = open_system();
  const unsigned most = system.capabilities().value().ipa_bits;
  struct Case {
    unsigned bits;
    bool good;
  };
  for (const auto& [bits, good] : {Case{31, false}, Case{32, true}, Case{kIpaBits, true},
                                   Case{most, true}, Case{most + 1, false}, Case{64, false}}) {
    const auto vm = system.create_vm(bits);
    EXPECT_EQ(vm.has_value(), good) << bits << " bits";
    if (!vm) {
      EXPECT_EQ(vm.error().kind(), ErrorKind::kHost);
      EXPECT_THAT(vm.error().message(), HasSubstr("KVM_CREATE_VM"));
    }
  }
}

TEST(SystemTest, RefusesVcpusBeyondTheLimitOrMadeTwice) {
  const auto system = open_system();
  auto vm = system.create_vm(kIpaBits).value();
  const auto first = vm.create_vcpu(0, {});
  ASSERT_TRUE(first);
  EXPECT_FALSE(vm.create_vcpu(0, {}));
  EXPECT_FALSE(vm.create_vcpu(100'000, {}));
}

TEST(SystemTest, RefusesAGicWithoutPlace) {
  const auto system = open_system();
  struct Case {
    const char* why;
    std::uint64_t distributor;
    std::uint64_t redistributors;
    unsigned spis;
    bool good;
  };
  for (const auto& item : {
           Case{"good", kDistributor, kRedistributors, 96, true},
           Case{"unaligned distributor", kDistributor + 0x1000, kRedistributors, 96, false},
           Case{"unaligned redistributors", kDistributor, kRedistributors + 0x1000, 96, false},
           Case{"overlap", kDistributor, kDistributor, 96, false},
           Case{"outside of the address space", 1ULL << kIpaBits, kRedistributors, 96, false},
           Case{"odd number of interrupts", kDistributor, kRedistributors, 5, false},
           Case{"too many interrupts", kDistributor, kRedistributors, 2048, false},
       }) {
    auto vm = system.create_vm(kIpaBits).value();
    const auto vcpu = vm.create_vcpu(0, {}).value();
    const auto gic = vm.create_gic(item.distributor, item.redistributors, item.spis);
    EXPECT_EQ(gic.has_value(), item.good) << item.why;
    if (item.good) {
      EXPECT_FALSE(vm.create_gic(item.distributor, item.redistributors, item.spis)) << "twice";
    }
  }
}

TEST(SystemTest, ThePmuWantsTheGicAndAnInterruptOfItsOwn) {
  const auto system = open_system();
  if (!system.capabilities().value().pmu) GTEST_SKIP() << "this host has no PMU for guests";
  auto vm = system.create_vm(kIpaBits).value();
  const auto vcpu = vm.create_vcpu(0, {.pmu = true}).value();
  EXPECT_FALSE(vcpu->init_pmu(23)) << "there is no GIC yet";
  const auto gic = vm.create_gic(kDistributor, kRedistributors, kSpiCount);
  ASSERT_TRUE(gic) << gic.error().message();
  EXPECT_FALSE(vcpu->init_pmu(3)) << "a software-generated interrupt";
  const auto good = vcpu->init_pmu(23);
  EXPECT_TRUE(good) << good.error().message();
}

TEST(SystemTest, AVcpuWithoutAPmuHasNoneToInitialise) {
  const auto system = open_system();
  auto vm = system.create_vm(kIpaBits).value();
  const auto vcpu = vm.create_vcpu(0, {}).value();
  const auto gic = vm.create_gic(kDistributor, kRedistributors, kSpiCount);
  ASSERT_TRUE(gic) << gic.error().message();
  EXPECT_FALSE(vcpu->init_pmu(23));
}

}  // namespace
}  // namespace vmm::kvm
