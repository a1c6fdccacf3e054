#include "kvm/cpu_identity.h"

#include <gmock/gmock.h>

#include <array>

#include "kvm/id_registers.h"
#include "kvm/register_id.h"
#include "machine.h"

namespace vmm::kvm {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr std::uint64_t kIsar0 = system_register(3, 0, 0, 6, 0);
constexpr std::uint64_t kMidr = system_register(3, 0, 0, 0, 0);
constexpr std::uint64_t kAes = 0xfULL << 4;  // ID_AA64ISAR0_EL1.AES
constexpr std::array<std::uint32_t, 3> kReadIsar0{
    0xd5380601,  // mrs x1, id_aa64isar0_el1
    0xf9000001,  // str x1, [x0]
    0x17fffffe,  // b   . - 8
};

class IdentityTest : public GuestTest {
 protected:
  static std::uint64_t& value(CpuIdentity& identity, std::uint64_t id) {
    const auto found = std::ranges::find(identity.registers, id, &IdValue::id);
    if (found == identity.registers.end()) {
      ADD_FAILURE() << register_name(id) << " is missing";
      std::abort();
    }
    return found->value;
  }

  static std::string refusal(Machine& machine, const CpuIdentity& source) {
    const auto applied = machine.vcpus[0]->apply(source);
    if (applied) return "accepted";
    EXPECT_EQ(applied.error().kind(), ErrorKind::kHost);
    return applied.error().message();
  }
};

TEST_F(IdentityTest, TwoVirtualMachinesOfOneHostAreTheSame) {
  const auto offered = must(must(System::open()).capabilities());
  ASSERT_TRUE(offered.sve && offered.pauth) << "this host lacks what is to be tested";
  for (const bool all : {false, true}) {
    const VcpuFeatures features{.sve = all, .pauth = all};
    Machine source(2, features);
    Machine destination(2, features);
    const auto identity = through_bytes(must(source.vcpus[1]->identity()));
    EXPECT_GT(identity.counter_hz, 0U);
    EXPECT_GT(identity.registers.size(), 40U);
    for (const auto& vcpu : destination.vcpus) {
      EXPECT_THAT(compare(identity, must(vcpu->identity())), IsEmpty());
      must(vcpu->apply(identity));
    }
  }
}

TEST_F(IdentityTest, TheGuestOfALesserCpuDoesNotSeeMore) {
  Machine machine(2);
  auto source = must(machine.vcpus[0]->identity());
  ASSERT_NE(value(source, kIsar0) & kAes, 0U) << "this CPU lacks what is to be hidden";
  value(source, kIsar0) &= ~kAes;
  for (const auto& vcpu : machine.vcpus) {
    must(vcpu->apply(source));
    EXPECT_THAT(compare(source, must(vcpu->identity())), IsEmpty());
  }
  machine.put_code(kReadIsar0);
  EXPECT_EQ(machine.written(), value(source, kIsar0));
  EXPECT_EQ(machine.written() & kAes, 0U);
}

TEST_F(IdentityTest, TheStateOfALesserCpuBringsItsIdentity) {
  Machine source(1);
  auto identity = must(source.vcpus[0]->identity());
  value(identity, kIsar0) &= ~kAes;
  must(source.vcpus[0]->apply(identity));
  Machine destination(1);
  for (int round = 0; round < 2; ++round) {
    must(destination.vcpus[0]->restore(must(source.vcpus[0]->save())));
    EXPECT_THAT(compare(identity, must(destination.vcpus[0]->identity())), IsEmpty());
  }
}

TEST_F(IdentityTest, WhatThisCpuLacksIsRefusedByNameWithBothValues) {
  Machine machine(1);
  const auto own = must(machine.vcpus[0]->identity());
  struct Case {
    void (*change)(CpuIdentity&);
    const char* words;
  };
  for (const auto& [change, words] : {
           Case{[](CpuIdentity& source) { value(source, kIsar0) |= kAes; },
                "ID_AA64ISAR0_EL1.AES is 0xf at the source and 0x"},
           Case{[](CpuIdentity& source) { value(source, kMidr) ^= 1; }, "MIDR_EL1 is 0x"},
           Case{[](CpuIdentity& source) { source.counter_hz = 1; },
                "counter frequency (CNTFRQ_EL0) is 1 at the source"},
           Case{[](CpuIdentity& source) { source.page_size = 65536; },
                "page size is 65536 at the source and 4096 here"},
           Case{[](CpuIdentity& source) { source.dczid += 1; }, "DCZID_EL0 is "},
           Case{[](CpuIdentity& source) { source.sve_lengths = {1, 0, 0, 0, 0, 0, 0, 0}; },
                "SVE vector lengths in bytes is 16 at the source and none here"},
           Case{[](CpuIdentity& source) {
                  source.register_ids.push_back(system_register(3, 0, 15, 1, 2));
                },
                "S3_0_C15_C1_2 is present at the source and absent here"},
       }) {
    auto source = own;
    change(source);
    EXPECT_THAT(refusal(machine, source), HasSubstr(words));
  }
  EXPECT_THAT(compare(own, must(machine.vcpus[0]->identity())), IsEmpty()) << "nothing changed";
}

}  // namespace
}  // namespace vmm::kvm
