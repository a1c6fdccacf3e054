#include "vmm/host_check.h"

#include <sys/sysinfo.h>

#include <algorithm>
#include <functional>

#include "vmm_support.h"

namespace vmm {
namespace {

constexpr std::uint64_t kGiB = 1ULL << 30;

// A host that can do everything.
kvm::Capabilities able_host() {
  kvm::Capabilities host;
  host.max_vcpus = 512;
  host.ipa_bits = 48;
  host.gicv3 = host.psci = host.sve = host.pauth = host.pmu = true;
  host.ioeventfd = host.irqfd = host.inject_abort = true;
  host.manual_dirty_protect = host.dirty_initially_set = host.eager_split = true;
  host.hw_dirty_log = true;
  host.block_sizes = 2ULL << 20 | kGiB;
  return host;
}

GuestConfig demanding_guest() {
  GuestConfig guest;
  guest.name = "web";
  guest.vcpus = 8;
  guest.memory = 4 * kGiB;
  guest.cpu = {true, true, true};
  return guest;
}

TEST(HostCheckTest, TakesWhatTheHostCanDo) {
  const auto checked = check_host(demanding_guest(), able_host(), 4 * kGiB);
  EXPECT_TRUE(checked) << checked.error().message();
}

TEST(HostCheckTest, AFeatureThatIsNotWantedMayBeMissing) {
  auto host = able_host();
  host.sve = host.pauth = host.pmu = host.hw_dirty_log = host.irqfd = false;
  auto guest = demanding_guest();
  guest.cpu = {};
  EXPECT_TRUE(check_host(guest, host, 4 * kGiB));
}

struct Refusal {
  const char* name;
  std::function<void(kvm::Capabilities&)> lack;
  const char* words;
};

class HostRefusalTest : public ::testing::TestWithParam<Refusal> {};

TEST_P(HostRefusalTest, NamesWhatIsMissing) {
  auto host = able_host();
  GetParam().lack(host);
  expect_error(check_host(demanding_guest(), host, 4 * kGiB), ErrorKind::kHost, GetParam().words);
}

INSTANTIATE_TEST_SUITE_P(
    All, HostRefusalTest,
    ::testing::Values(Refusal{"gic", [](auto& host) { host.gicv3 = false; }, "GICv3"},
                      Refusal{"psci", [](auto& host) { host.psci = false; }, "PSCI"},
                      Refusal{"vcpus", [](auto& host) { host.max_vcpus = 7; },
                              "web wants 8 vCPUs, KVM allows 7"},
                      Refusal{"ipa_bits", [](auto& host) { host.ipa_bits = 35; },
                              "needs 36 bits of guest-physical address, this host's CPU offers 35"},
                      Refusal{"sve", [](auto& host) { host.sve = false; }, "\"sve\""},
                      Refusal{"pauth", [](auto& host) { host.pauth = false; }, "\"pauth\""},
                      Refusal{"pmu", [](auto& host) { host.pmu = false; }, "\"pmu\""}),
    [](const auto& test) { return test.param.name; });

TEST(HostCheckTest, RefusesMoreMemoryThanTheHostHas) {
  expect_error(check_host(demanding_guest(), able_host(), 4 * kGiB - 1), ErrorKind::kHost,
               "web wants 4096 MiB of memory, this host has 4095 MiB");
}

TEST(HostCheckTest, RefusesMemoryBeyondTheGuestPhysicalAddressSpace) {
  auto host = able_host();
  host.ipa_bits = 40;
  auto guest = demanding_guest();
  guest.memory = 1024 * kGiB;
  expect_error(check_host(guest, host, ~0ULL), ErrorKind::kHost, "needs 41 bits");
}

TEST(IpaBitsTest, CoverRamAndNoMore) {
  struct Case {
    std::uint64_t memory;
    unsigned bits;
  };
  // RAM starts at 1 GiB.
  for (const auto& [memory, bits] :
       {Case{32ULL << 20, 36}, Case{63 * kGiB, 36}, Case{63 * kGiB + (2ULL << 20), 37},
        Case{127 * kGiB, 37}, Case{128 * kGiB, 38}, Case{1023 * kGiB, 40}, Case{1024 * kGiB, 41}}) {
    EXPECT_EQ(ipa_bits_for(memory), bits) << memory / kGiB << " GiB";
  }
}

TEST(HostFeaturesTest, WhatIsRequiredAndMissingIsMarked) {
  const auto missing = [](const kvm::Capabilities& host, std::uint64_t memory) {
    std::vector<std::string> names;
    for (const auto& feature : host_features(host, memory)) {
      EXPECT_FALSE(feature.detail.empty()) << feature.name;
      if (feature.required && !feature.available) names.push_back(feature.name);
    }
    return names;
  };
  EXPECT_THAT(missing(able_host(), kGiB), ::testing::IsEmpty());
  EXPECT_THAT(missing({}, 0), ::testing::ElementsAre("GICv3", "PSCI", "vCPUs",
                                                     "guest-physical address", "host memory"));
}

TEST(HostFeaturesTest, OptionalPartsSayWhetherTheyAreThere) {
  const auto find = [](const kvm::Capabilities& host, std::string_view name) {
    const auto features = host_features(host, kGiB);
    const auto found = std::ranges::find(features, name, &HostFeature::name);
    EXPECT_NE(found, features.end()) << name;
    return *found;
  };
  kvm::Capabilities poor = able_host();
  poor.sve = poor.pauth = poor.pmu = poor.hw_dirty_log = poor.eager_split = poor.irqfd = false;
  poor.manual_dirty_protect = poor.inject_abort = false;
  for (const auto* name :
       {"SVE", "pointer authentication", "PMU", "dirty log, hardware", "dirty log, manual protect",
        "eager page split", "ioeventfd, irqfd", "abort injection"}) {
    EXPECT_TRUE(find(able_host(), name).available) << name;
    EXPECT_FALSE(find(poor, name).available) << name;
    EXPECT_FALSE(find(poor, name).required) << name;
  }
  EXPECT_EQ(find(able_host(), "eager page split").detail, "stage-2 blocks of 2 MiB, 1 GiB");
  EXPECT_EQ(find(able_host(), "vCPUs").detail, "16 a guest here, 512 by KVM");
}

TEST(HostFeaturesTest, MemoryOfThisHostIsPlausible) {
  EXPECT_GE(host_memory(), 64ULL << 20);
  EXPECT_LE(host_memory(), 1ULL << 50);
}

TEST(AvailableMemoryTest, IsSomeOfWhatTheHostHas) {
  const auto available = available_memory(false);
  ASSERT_TRUE(available);
  EXPECT_GT(available.value(), 0u);
  struct sysinfo info {};
  ASSERT_EQ(::sysinfo(&info), 0);
  EXPECT_LE(available.value(), (std::uint64_t{info.totalram} + info.totalswap) * info.mem_unit);
}

TEST(AvailableMemoryTest, AGuestThatBringsMoreIsRefusedWithBothValues) {
  GuestConfig config;
  config.name = "web1";
  config.memory = 512 << 20;
  EXPECT_TRUE(check_available(config, config.memory));
  const auto refused = check_available(config, config.memory - 1);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().kind(), ErrorKind::kHost);
  EXPECT_EQ(refused.error().message(),
            "web1 brings 512 MiB of memory, this host has 511 MiB available");
}

}  // namespace
}  // namespace vmm
