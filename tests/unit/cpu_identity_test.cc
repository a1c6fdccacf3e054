#include "kvm/cpu_identity.h"

#include <gmock/gmock.h>

#include <set>

#include "kvm/id_registers.h"
#include "kvm/register_id.h"

namespace vmm::kvm {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr std::uint64_t kIsar0 = system_register(3, 0, 0, 6, 0);
constexpr std::uint64_t kMidr = system_register(3, 0, 0, 0, 0);
constexpr std::uint64_t kUnnamed = system_register(3, 0, 0, 5, 2);
constexpr std::uint64_t kTcr = system_register(3, 0, 2, 0, 2);
constexpr std::uint64_t kPsciVersion = kRegisterArm64 | kRegisterU64 | 0x14'0000;
constexpr std::uint64_t kCacheSize = kRegisterArm64 | kRegisterU32 | 0x11'0002;

CpuIdentity example() {
  CpuIdentity identity;
  identity.counter_hz = 62'500'000;
  identity.page_size = 4096;
  identity.dczid = 4;
  identity.registers = {{kMidr, 0x410f'd0f0},
                        {kIsar0, 0x1021'1110'0212'2120},
                        {kUnnamed, 0},
                        {kPsciVersion, 0x1'0001},
                        {kCacheSize, 0x7007'f03a}};
  identity.sve_lengths = {0xffff, 0, 0, 0, 0, 0, 0, 0};
  identity.register_ids = {kMidr, kIsar0, kUnnamed, kPsciVersion, kCacheSize, kTcr};
  return identity;
}

std::vector<std::byte> bytes_of(const CpuIdentity& identity) {
  ByteWriter writer;
  identity.save(writer);
  return writer.take();
}

std::string refusal(std::span<const std::byte> bytes) {
  ByteReader reader(bytes);
  const auto identity = CpuIdentity::restore(reader);
  return identity ? "accepted" : identity.error().message();
}

TEST(CpuIdentityTest, SurvivesTheMoveWithAndWithoutSve) {
  for (const bool sve : {true, false}) {
    auto identity = example();
    if (!sve) identity.sve_lengths.clear();
    const auto bytes = bytes_of(identity);
    ByteReader reader(bytes);
    const auto restored = CpuIdentity::restore(reader);
    ASSERT_TRUE(restored) << restored.error().message();
    EXPECT_TRUE(reader.expect_end());
    EXPECT_EQ(restored.value(), identity);
  }
}

TEST(CpuIdentityTest, BytesThatEndEarlyAreRefusedAtEveryLength) {
  const auto bytes = bytes_of(example());
  for (std::size_t length = 0; length < bytes.size(); ++length) {
    EXPECT_NE(refusal(std::span(bytes).first(length)), "accepted") << length;
  }
}

TEST(CpuIdentityTest, HostileBytesAreRefused) {
  auto identity = example();
  auto bytes = bytes_of(identity);
  bytes[0] = std::byte{3};
  EXPECT_THAT(refusal(bytes), HasSubstr("version 3"));

  identity.registers.push_back({kTcr, 1});
  EXPECT_THAT(refusal(bytes_of(identity)), HasSubstr("S3_0_C2_C0_2 says nothing"));

  identity = example();
  identity.registers.push_back({kMidr, 1});
  EXPECT_THAT(refusal(bytes_of(identity)), HasSubstr("MIDR_EL1 twice"));

  identity = example();
  identity.registers.resize(257, {kMidr, 0});
  EXPECT_THAT(refusal(bytes_of(identity)), HasSubstr("256 are allowed"));

  identity = example();
  identity.register_ids.resize(4097);
  EXPECT_THAT(refusal(bytes_of(identity)), HasSubstr("4096 are allowed"));
}

TEST(CpuIdentityTest, TheSameCpuDoesNotDiffer) {
  EXPECT_THAT(compare(example(), example()), IsEmpty());
}

TEST(CpuIdentityTest, DifferencesNameRegisterFieldAndBothValues) {
  auto host = example();
  host.registers[1].value ^= 0x3ULL << 60 | 1;  // RNDR, and a bit without a name
  EXPECT_THAT(compare(example(), host),
              ElementsAre(IdDifference{kIsar0, "ID_AA64ISAR0_EL1.RNDR", "0x1", "0x2"},
                          IdDifference{kIsar0, "ID_AA64ISAR0_EL1", "0x1021111002122120",
                                       "0x2021111002122121"}));
}

TEST(CpuIdentityTest, ADifferenceWithinAFieldIsNotOneOfTheWholeRegister) {
  auto host = example();
  host.registers[1].value ^= 0x1ULL << 60;
  EXPECT_THAT(compare(example(), host),
              ElementsAre(IdDifference{kIsar0, "ID_AA64ISAR0_EL1.RNDR", "0x1", "0x0"}));
}

TEST(CpuIdentityTest, WhatIsNoRegisterDiffersByName) {
  struct Case {
    void (*change)(CpuIdentity&);
    IdDifference expected;
  };
  for (const auto& [change, expected] : {
           Case{[](CpuIdentity& host) { host.counter_hz = 24'000'000; },
                {0, "counter frequency (CNTFRQ_EL0)", "62500000", "24000000"}},
           Case{[](CpuIdentity& host) { host.page_size = 65536; },
                {0, "page size", "4096", "65536"}},
           Case{[](CpuIdentity& host) { host.dczid = 5; }, {0, "DCZID_EL0", "4", "5"}},
           Case{[](CpuIdentity& host) { host.sve_lengths.clear(); },
                {0, "SVE vector lengths in bytes",
                 "16,32,48,64,80,96,112,128,144,160,176,192,208,224,240,256", "none"}},
           Case{[](CpuIdentity& host) { host.register_ids.pop_back(); },
                {0, "S3_0_C2_C0_2", "present", "absent"}},
           Case{[](CpuIdentity& host) { host.registers[3].value = 2; },
                {kPsciVersion, "KVM_REG_ARM_PSCI_VERSION", "0x10001", "0x2"}},
           Case{[](CpuIdentity& host) { host.registers[4].value = 0; },
                {kCacheSize, "CCSIDR_EL1 of cache 2", "0x7007f03a", "0x0"}},
       }) {
    auto host = example();
    change(host);
    EXPECT_THAT(compare(example(), host), ElementsAre(expected)) << expected.name;
  }
}

TEST(CpuIdentityTest, RegistersThatOnlyTheHostHasAreNoDifference) {
  auto host = example();
  host.register_ids.push_back(system_register(3, 0, 10, 2, 3));
  host.registers.push_back({system_register(3, 0, 0, 7, 5), 0x11});
  EXPECT_THAT(compare(example(), host), IsEmpty());
}

TEST(CpuIdentityTest, ALongListOfDifferencesIsCut) {
  std::vector<IdDifference> many(kMaxDescribed + 3, {0, "X", "1", "2"});
  EXPECT_THAT(describe(many), HasSubstr("X is 1 at the source and 2 here; X is"));
  EXPECT_THAT(describe(many), HasSubstr("; and 3 more"));
  many.resize(kMaxDescribed);
  EXPECT_THAT(describe(many), ::testing::Not(HasSubstr("more")));
}

TEST(IdRegistersTest, AnIdentityIsWhatTheCpuIsNotWhatItDoes) {
  for (const auto id : {kMidr, kIsar0, kUnnamed, kPsciVersion, kCacheSize,
                        system_register(3, 3, 0, 0, 1), system_register(3, 1, 0, 0, 1)}) {
    EXPECT_TRUE(is_identity_register(id)) << register_name(id);
  }
  for (const auto id :
       {kMpidrEl1, kTcr, kSveVectorLengths, kVirtualCompare, system_register(3, 2, 0, 0, 0),
        kRegisterArm64 | kRegisterU64 | 0x10'0000}) {
    EXPECT_FALSE(is_identity_register(id)) << register_name(id);
  }
}

TEST(IdRegistersTest, FieldsDoNotOverlap) {
  std::size_t with_fields = 0;
  for (unsigned crm = 1; crm <= 7; ++crm) {
    for (unsigned op2 = 0; op2 <= 7; ++op2) {
      const auto id = system_register(3, 0, 0, crm, op2);
      std::uint64_t seen = 0;
      std::set<std::string_view> names;
      for (const auto& [name, shift, width] : id_fields(id)) {
        ASSERT_LE(shift + width, 64);
        const auto mask = ((std::uint64_t{1} << width) - 1) << shift;
        EXPECT_EQ(seen & mask, 0U) << register_name(id) << "." << name;
        EXPECT_TRUE(names.insert(name).second) << register_name(id) << "." << name;
        seen |= mask;
      }
      with_fields += seen != 0 ? 1U : 0U;
    }
  }
  EXPECT_EQ(with_fields, 17U);
}

}  // namespace
}  // namespace vmm::kvm
