#include "kvm/vcpu_state.h"

#include <gmock/gmock.h>

#include <array>

#include "kvm/register_id.h"
#include "machine.h"

namespace vmm::kvm {
namespace {

using ::testing::HasSubstr;

constexpr unsigned kVcpus = 4;
constexpr std::uint64_t kTimerStatus = 1 << 2;  // CNTx_CTL_EL0.ISTATUS follows the counter

void put(RegisterValue& value, std::uint64_t number) {
  std::memcpy(value.bytes.data(), &number, sizeof number);
}

std::uint64_t get(const RegisterValue& value) {
  return must(as_u64(value));
}

// System registers that hold any value: no bit of them is fixed or checked by KVM.
constexpr std::uint64_t kFreeRegisters[] = {
    system_register(3, 0, 2, 0, 0),   // TTBR0_EL1
    system_register(3, 0, 2, 0, 1),   // TTBR1_EL1
    system_register(3, 0, 5, 2, 0),   // ESR_EL1
    system_register(3, 0, 6, 0, 0),   // FAR_EL1
    system_register(3, 0, 10, 2, 0),  // MAIR_EL1
    system_register(3, 0, 12, 0, 0),  // VBAR_EL1
    system_register(3, 0, 13, 0, 1),  // CONTEXTIDR_EL1
    system_register(3, 0, 13, 0, 4),  // TPIDR_EL1
    system_register(3, 3, 13, 0, 2),  // TPIDR_EL0
    system_register(3, 3, 13, 0, 3),  // TPIDRRO_EL0
    kVirtualCompare,
    kPhysicalCompare,
};
// With pauth.
constexpr std::uint64_t kKeys[] = {
    system_register(3, 0, 2, 1, 0), system_register(3, 0, 2, 1, 1),  // APIAKey
    system_register(3, 0, 2, 2, 2), system_register(3, 0, 2, 2, 3),  // APDBKey
    system_register(3, 0, 2, 3, 0), system_register(3, 0, 2, 3, 1),  // APGAKey
};

bool one_of(std::span<const std::uint64_t> list, std::uint64_t id) {
  return std::ranges::find(list, id) != list.end();
}

// A state like no other vCPU's: every byte of the core, vector and free system registers is its
// own.
VcpuState distinct(VcpuState state, unsigned seed, const SveLengths& lengths) {
  constexpr std::uint64_t kPstate = kRegisterArm64 | kRegisterU64 | 0x10'0042;
  // Bytes of a vector that this CPU has; KVM's registers are as wide as any CPU's.
  std::size_t vector = 16;
  for (std::size_t bit = 0; bit < lengths.size() * 64; ++bit) {
    if ((lengths[bit / 64] >> bit % 64 & 1) != 0) vector = (bit + 1) * 16;
  }
  std::uint8_t next = static_cast<std::uint8_t>(17 * seed + 3);
  for (auto& value : state.registers) {
    const auto family = register_family(value.id);
    const bool core = family == RegisterFamily::kCore && value.id != kPstate;
    const bool sve = family == RegisterFamily::kSve && value.id != kSveVectorLengths;
    if (!core && !sve && !one_of(kFreeRegisters, value.id) && !one_of(kKeys, value.id)) continue;
    const auto used = !sve ? value.bytes.size()
                      : value.bytes.size() == kMaxRegisterSize
                          ? vector
                          : vector / 8;  // predicate: a bit a byte
    for (std::size_t i = 0; i < used; ++i) value.bytes[i] = std::byte{next++};
  }
  state.power = seed % 2 == 1 ? PowerState::kOff : PowerState::kOn;
  state.serror_pending = seed == 2;
  return state;
}

// Expects the same registers, in the same order, with the same bits.
void expect_same(VcpuState got, VcpuState wanted, const std::string& name) {
  ASSERT_EQ(got.registers.size(), wanted.registers.size()) << name;
  for (std::size_t i = 0; i < got.registers.size(); ++i) {
    auto& here = got.registers[i];
    auto& there = wanted.registers[i];
    ASSERT_EQ(here.id, there.id) << name;
    if (here.id == kVirtualControl || here.id == kPhysicalControl) {
      put(here, get(here) & ~kTimerStatus);
      put(there, get(there) & ~kTimerStatus);
    }
    EXPECT_EQ(here.bytes, there.bytes) << name << ", register " << std::hex << here.id;
  }
  EXPECT_EQ(got.power, wanted.power) << name;
  EXPECT_EQ(got.serror_pending, wanted.serror_pending) << name;
  EXPECT_EQ(got.serror_has_syndrome, wanted.serror_has_syndrome) << name;
  EXPECT_EQ(got.serror_syndrome, wanted.serror_syndrome) << name;
}

struct FeatureCase {
  const char* name;
  bool sve;
  bool pauth;
};

class VcpuStateTest : public GuestTest {};

class VcpuMoveTest : public GuestTest, public ::testing::WithParamInterface<FeatureCase> {};

TEST_P(VcpuMoveTest, EveryRegisterOfEveryVcpuSurvivesTheMoveBitByBit) {
  const auto [name, sve, pauth] = GetParam();
  const auto offered = must(must(System::open()).capabilities());
  ASSERT_TRUE(!sve || offered.sve) << "this host has no SVE to test with";
  ASSERT_TRUE(!pauth || offered.pauth) << "this host has no pointer authentication to test with";
  const VcpuFeatures features{.sve = sve, .pauth = pauth};
  Machine source(kVcpus, features);
  Machine destination(kVcpus, features);
  const auto lengths = must(source.vcpus[0]->identity()).sve_lengths;
  EXPECT_EQ(!lengths.empty(), sve);
  std::vector<VcpuState> states;
  for (unsigned i = 0; i < kVcpus; ++i) {
    states.push_back(distinct(must(source.vcpus[i]->save()), i, lengths));
    must(source.vcpus[i]->restore(states[i]));
  }
  for (unsigned i = 0; i < kVcpus; ++i) {
    const auto saved = through_bytes(must(source.vcpus[i]->save()));
    expect_same(saved, states[i], "source");
    EXPECT_EQ(saved.find(kKeys[0]) != nullptr, pauth);
    must(destination.vcpus[i]->restore(saved));
  }
  for (unsigned i = 0; i < kVcpus; ++i) {
    expect_same(must(destination.vcpus[i]->save()), states[i], "destination");
  }
}

INSTANTIATE_TEST_SUITE_P(All, VcpuMoveTest,
                         ::testing::Values(FeatureCase{"plain", false, false},
                                           FeatureCase{"sve", true, false},
                                           FeatureCase{"pauth", false, true},
                                           FeatureCase{"sve_and_pauth", true, true}),
                         [](const auto& test) { return test.param.name; });

TEST_F(VcpuStateTest, NothingOfARehearsalIsLeft) {
  Machine source(kVcpus);
  Machine destination(kVcpus);
  for (const unsigned round : {2U, 1U, 0U}) {  // with a pending SError, then switched off, then on
    const auto state = distinct(must(source.vcpus[0]->save()), round, {});
    must(destination.vcpus[0]->restore(state));
    expect_same(must(destination.vcpus[0]->save()), state, std::to_string(round));
  }
}

TEST_F(VcpuStateTest, TheGuestGoesOnWhereItWas) {
  constexpr std::array<std::uint32_t, 4> kCode{
      0xd2800001,  // mov x1, #0
      0x91000421,  // add x1, x1, #1
      0xf9000001,  // str x1, [x0]
      0x17fffffe,  // b   . - 8
  };
  Machine source(1);
  source.put_code(kCode);
  for (std::uint64_t i = 1; i <= 7; ++i) EXPECT_EQ(source.written(), i);
  source.settle();
  Machine destination(1);
  destination.put_code(kCode);
  must(destination.vcpus[0]->restore(through_bytes(must(source.vcpus[0]->save()))));
  for (std::uint64_t i = 8; i <= 12; ++i) EXPECT_EQ(destination.written(), i);
}

TEST_F(VcpuStateTest, TheGuestOfALesserCpuKeepsItsVectorLengths) {
  ASSERT_TRUE(must(must(System::open()).capabilities()).sve);
  Machine all(1, {.sve = true});
  auto lengths = must(all.vcpus[0]->identity()).sve_lengths;
  ASSERT_GT(lengths[0], 1U) << "this host has vectors of 128 bits only";
  lengths[0] &= 0x3;  // 16 and 32 bytes
  Machine less(1, {.sve = true, .sve_lengths = lengths});
  EXPECT_EQ(must(less.vcpus[0]->identity()).sve_lengths, lengths);

  // No CPU without 16 bytes, and no such state in a vCPU of other lengths.
  auto vm = must(must(System::open()).create_vm(kIpaBits));
  lengths[0] = 0x2;
  const auto refused = vm.create_vcpu(0, {.sve = true, .sve_lengths = lengths});
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().message(), HasSubstr("SVE vector lengths"));
  const auto other = all.vcpus[0]->restore(must(less.vcpus[0]->save()));
  ASSERT_FALSE(other);
  EXPECT_THAT(other.error().message(), HasSubstr("SVE vector lengths"));
}

TEST_F(VcpuStateTest, TheStateOfAnotherVcpuIsRefused) {
  Machine machine(2);
  const auto refused = machine.vcpus[1]->restore(must(machine.vcpus[0]->save()));
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().message(), HasSubstr("MPIDR_EL1"));
}

TEST_F(VcpuStateTest, ValuesThatKvmRefusesNameTheRegister) {
  Machine machine(1);
  auto state = must(machine.vcpus[0]->save());
  state.registers.push_back({system_register(3, 0, 15, 1, 2), std::vector<std::byte>(8)});
  const auto unknown = machine.vcpus[0]->restore(state);
  ASSERT_FALSE(unknown);
  EXPECT_THAT(unknown.error().message(), HasSubstr("S3_0_C15_C1_2"));
  state.registers.back() = {kVirtualCount, std::vector<std::byte>(8)};
  EXPECT_FALSE(machine.vcpus[0]->restore(state)) << "the counter is not a vCPU's";
}

}  // namespace
}  // namespace vmm::kvm
