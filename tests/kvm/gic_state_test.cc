#include "kvm/gic_state.h"

#include <gmock/gmock.h>

#include <array>
#include <random>

#include "machine.h"

namespace vmm::kvm {
namespace {

using ::testing::HasSubstr;

constexpr unsigned kVcpus = 4;

// Which bits of a register may have any value; the rest are fixed, or not for software to choose.
std::uint32_t free_bits(std::uint32_t offset, bool shared) {
  if (!shared && offset < 0x1'0000) return 0;  // control, status and wake-up of a redistributor
  const auto frame = offset & 0xffff;
  if (frame == 0) return 0x2;       // GICD_CTLR.EnableGrp1
  if (frame < 0x80) return 0;       // GICD_STATUSR
  if (frame >= 0x6000) return 0x3;  // GICD_IROUTER: Aff0 of four vCPUs
  if (frame >= 0xc00)
    return shared ? 0xaaaa'aaaa            // GICD_ICFGR: edge or level
                  : 0;                     // private ones have theirs for good
  if (frame >= 0x400) return 0xf8f8'f8f8;  // IPRIORITYR: KVM has five bits
  return ~0U;
}

// The shared interrupts of a word of levels that are level-sensitive: KVM reports no other's level.
std::uint32_t level_sensitive(const GicState& state, std::size_t word) {
  constexpr std::uint32_t kIcfgr = 0xc00;
  const auto table = gic_distributor_registers(gic_interrupts(state.typer));
  std::uint32_t found = 0;
  for (unsigned bit = 0; bit < 32; ++bit) {
    const auto interrupt = static_cast<std::uint32_t>(kPrivateInterrupts + 32 * word + bit);
    const auto reg = std::ranges::find(table, kIcfgr + interrupt / 16 * 4, &GicRegister::offset);
    const auto trigger = state.distributor[static_cast<std::size_t>(reg - table.begin())];
    if ((trigger >> (interrupt % 16 * 2 + 1) & 1) == 0) found |= 1U << bit;
  }
  return found;
}

// Changes everything that can be changed: each vCPU and each seed has values of its own, and those
// of a seed and the next are the inverse of each other.
GicState changed(GicState state, unsigned seed) {
  std::mt19937 random(seed / 2);
  const std::uint32_t inverse = seed % 2 == 0 ? 0 : ~0U;
  const auto mix = [&](std::uint32_t value, std::uint32_t mask) {
    return (value & ~mask) | ((static_cast<std::uint32_t>(random()) ^ inverse) & mask);
  };
  const auto shared = gic_distributor_registers(gic_interrupts(state.typer));
  for (std::size_t i = 0; i < shared.size(); ++i) {
    state.distributor[i] = mix(state.distributor[i], free_bits(shared[i].offset, true));
  }
  for (std::size_t word = 0; word < state.line_levels.size(); ++word) {
    state.line_levels[word] = mix(0, level_sensitive(state, word));
  }
  const auto table = gic_redistributor_registers();
  for (auto& cpu : state.cpus) {
    for (std::size_t i = 0; i < table.size(); ++i) {
      cpu.redistributor[i] = mix(cpu.redistributor[i], free_bits(table[i].offset, false));
    }
    cpu.line_levels = mix(0, 0xffff'0000);  // software-generated interrupts have no line
    const auto interface = gic_interface_registers(cpu.control);
    for (std::size_t i = 0; i < interface.size(); ++i) {
      std::uint32_t mask = ~0U;                   // active priorities
      if (i == 0) mask = 0;                       // ICC_SRE_EL1
      if (i == 1) mask = 0xf8;                    // ICC_PMR_EL1
      if (i == 2 || i == 3) mask = 0x7;           // ICC_BPR0_EL1, ICC_BPR1_EL1
      if (i + 2 >= interface.size()) mask = 0x1;  // ICC_IGRPEN0_EL1, ICC_IGRPEN1_EL1
      cpu.interface[i] = mix(static_cast<std::uint32_t>(cpu.interface[i]), mask);
    }
  }
  return state;
}

// Compares vector by vector, so that a failure says where.
void expect_same(const GicState& got, const GicState& wanted, const std::string& name) {
  EXPECT_EQ(got.iidr, wanted.iidr) << name;
  EXPECT_EQ(got.typer, wanted.typer) << name;
  EXPECT_EQ(got.distributor, wanted.distributor) << name;
  EXPECT_EQ(got.line_levels, wanted.line_levels) << name;
  ASSERT_EQ(got.cpus.size(), wanted.cpus.size()) << name;
  for (std::size_t i = 0; i < got.cpus.size(); ++i) {
    EXPECT_EQ(got.cpus[i].affinity, wanted.cpus[i].affinity) << name;
    EXPECT_EQ(got.cpus[i].redistributor, wanted.cpus[i].redistributor) << name << ", vCPU " << i;
    EXPECT_EQ(got.cpus[i].line_levels, wanted.cpus[i].line_levels) << name << ", vCPU " << i;
    EXPECT_EQ(got.cpus[i].control, wanted.cpus[i].control) << name << ", vCPU " << i;
    EXPECT_EQ(got.cpus[i].interface, wanted.cpus[i].interface) << name << ", vCPU " << i;
  }
}

class GicStateTest : public GuestTest {
 protected:
  static GicState save(const Machine& machine) {
    return through_bytes(must(machine.gic->save(machine.affinities)));
  }
};

TEST_F(GicStateTest, EveryVcpusInterruptsSurviveTheMove) {
  Machine source(kVcpus);
  Machine destination(kVcpus);
  const auto state = changed(save(source), 0);
  ASSERT_NE(state.cpus[0].redistributor, state.cpus[1].redistributor);
  must(source.gic->restore(state, source.affinities));
  const auto saved = save(source);
  expect_same(saved, state, "source");
  must(destination.gic->restore(saved, destination.affinities));
  expect_same(save(destination), state, "destination");
}

TEST_F(GicStateTest, NothingOfARehearsalIsLeft) {
  Machine machine(kVcpus);
  const auto fresh = save(machine);
  for (const unsigned seed : {0U, 1U, 2U, 3U, 0U}) {
    const auto state = changed(fresh, seed);
    must(machine.gic->restore(state, machine.affinities));
    expect_same(save(machine), state, std::to_string(seed));
  }
  must(machine.gic->restore(fresh, machine.affinities));
  expect_same(save(machine), fresh, "fresh");
}

TEST_F(GicStateTest, ALineThatWasHighIsPendingForTheGuest) {
  constexpr std::array<std::uint32_t, 5> kCode{
      0xd2a10002,  // mov x2, #0x8000000      GICD
      0xb90c085f,  // str wzr, [x2, #0xc08]   GICD_ICFGR2: INTID 32 to 47 are level-sensitive
      0xb9420441,  // ldr w1, [x2, #0x204]    GICD_ISPENDR1: INTID 32 to 63
      0xf9000001,  // str x1, [x0]
      0x17fffffe,  // b   . - 8
  };
  Machine source(1);
  source.put_code(kCode);
  EXPECT_EQ(source.written(), 0U);
  must(source.vm->set_spi_level(5, true));
  source.settle();
  Machine destination(1);
  destination.put_code(kCode);
  must(destination.gic->restore(save(source), destination.affinities));
  EXPECT_EQ(destination.written(), 1U << 5);
  must(destination.vm->set_spi_level(5, false));
  EXPECT_EQ(destination.written(), 0U);
}

TEST_F(GicStateTest, StateOfOtherVcpusOrAnotherSizeIsRefused) {
  Machine machine(2);
  const auto good = save(machine);
  auto state = good;
  std::swap(state.cpus[0], state.cpus[1]);
  EXPECT_FALSE(machine.gic->restore(state, machine.affinities)) << "order";
  state = good;
  state.cpus.pop_back();
  EXPECT_FALSE(machine.gic->restore(state, machine.affinities)) << "number";
  state = good;
  state.typer += 1;
  const auto size = machine.gic->restore(state, machine.affinities);
  ASSERT_FALSE(size);
  EXPECT_THAT(size.error().message(), HasSubstr("GICD_TYPER is 0x"));
  state = good;
  state.cpus[1].control |= 7 << 8;  // more priority bits than the CPU has
  EXPECT_FALSE(machine.gic->restore(state, machine.affinities)) << "priority bits";
  must(machine.gic->restore(good, machine.affinities));
}

TEST_F(GicStateTest, BehavesAsTheKvmThatTheGuestCameFrom) {
  constexpr std::uint32_t kRevision = 0xf << 12;
  Machine machine(1);
  const auto own = must(machine.gic->iidr());
  const auto older = (own & ~kRevision) | 2 << 12;
  must(machine.gic->set_iidr(older));
  EXPECT_EQ(must(machine.gic->iidr()), older);
  must(machine.gic->set_iidr(own));
  for (const auto wrong : {own | kRevision, own ^ 1U}) {
    const auto refused = machine.gic->set_iidr(wrong);
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().kind(), ErrorKind::kHost);
    EXPECT_THAT(refused.error().message(), HasSubstr("GICD_IIDR is 0x"));
  }
  EXPECT_EQ(must(machine.gic->iidr()), own);
}

}  // namespace
}  // namespace vmm::kvm
