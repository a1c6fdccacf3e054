#include "kvm/counter.h"

#include <gmock/gmock.h>

#include <array>

#include "kvm/register_id.h"
#include "machine.h"

namespace vmm::kvm {
namespace {

using ::testing::HasSubstr;

constexpr std::uint64_t kSecond = 1'000'000'000;  // in nanoseconds
constexpr std::uint64_t kHour = 3600 * kSecond;

class CounterTest : public GuestTest {
 protected:
  // Counts of the guest are at most so much ahead of what they were set to: a test takes less.
  static std::uint64_t slack(const Counter& counter) {
    return counter_ticks(kSeconds * kSecond, counter.frequency_hz);
  }

  static void expect_between(std::uint64_t value, std::uint64_t least, const Counter& counter) {
    EXPECT_GE(value, least);
    EXPECT_LE(value, least + slack(counter));
  }
};

constexpr std::array<std::uint32_t, 6> kReadCounters{
    0xd5033fdf,  // isb
    0xd53be041,  // mrs x1, cntvct_el0
    0xf9000001,  // str x1, [x0]
    0xd53be022,  // mrs x2, cntpct_el0
    0xf9000002,  // str x2, [x0]
    0x17fffffb,  // b   . - 20
};

TEST_F(CounterTest, BothCountersGoOnByTheTimeThatPassed) {
  Machine source(1);
  source.put_code(kReadCounters);
  const auto virtual_before = source.written();
  const auto physical_before = source.written();
  source.settle();
  const auto counter = through_bytes(must(source.vcpus[0]->save_counter()));
  expect_between(counter.virtual_count, virtual_before, counter);
  expect_between(counter.physical_count, physical_before, counter);
  EXPECT_NE(counter.virtual_count, counter.physical_count) << "they are not one to a guest";

  Machine destination(1);
  destination.put_code(kReadCounters);
  must(destination.vcpus[0]->restore(must(source.vcpus[0]->save())));
  must(destination.vcpus[0]->restore_counter(counter, kHour));
  const auto advance = counter_ticks(kHour, counter.frequency_hz);
  expect_between(destination.written(), counter.virtual_count + advance, counter);
  expect_between(destination.written(), counter.physical_count + advance, counter);
}

TEST_F(CounterTest, OnlyTheLastOfSeveralRestoresCounts) {
  Machine machine(1);
  machine.put_code(kReadCounters);
  const auto counter = must(machine.vcpus[0]->save_counter());
  must(machine.vcpus[0]->restore_counter(counter, kHour));
  must(machine.vcpus[0]->restore_counter(counter, 0));
  must(machine.vcpus[0]->restore_counter(counter, kSecond));
  const auto advance = counter_ticks(kSecond, counter.frequency_hz);
  expect_between(machine.written(), counter.virtual_count + advance, counter);
  expect_between(machine.written(), counter.physical_count + advance, counter);
}

TEST_F(CounterTest, TheCountersOfAllVcpusAreSetByOne) {
  Machine machine(2);
  machine.put_code(kReadCounters);
  must(machine.vcpus[1]->set_boot_registers(kRam, kDevice));
  auto started = must(machine.vcpus[1]->save());
  started.power = PowerState::kOn;
  must(machine.vcpus[1]->restore(started));
  const auto counter = must(machine.vcpus[0]->save_counter());
  must(machine.vcpus[0]->restore_counter(counter, kHour));
  // As a state that is saved earlier and restored later than the counter would have it.
  must(machine.vcpus[1]->restore(started));
  const auto advance = counter_ticks(kHour, counter.frequency_hz);
  expect_between(machine.written(1), counter.virtual_count + advance, counter);
  expect_between(machine.written(1), counter.physical_count + advance, counter);
}

TEST_F(CounterTest, NeverGoesBackHoweverShortTheWay) {
  Machine machine(1);
  machine.put_code(kReadCounters);
  std::uint64_t last_virtual = 0;
  std::uint64_t last_physical = 0;
  for (int i = 0; i < 200; ++i) {
    const auto now = machine.written();
    EXPECT_GE(now, last_virtual);
    last_virtual = now;
    const auto physical = machine.written();
    EXPECT_GE(physical, last_physical);
    last_physical = physical;
    machine.settle();
    const auto counter = must(machine.vcpus[0]->save_counter());
    must(machine.vcpus[0]->restore_counter(counter, 0));
  }
}

TEST_F(CounterTest, AnotherFrequencyIsRefusedWithBoth) {
  Machine machine(1);
  auto counter = must(machine.vcpus[0]->save_counter());
  counter.frequency_hz += 1;
  const auto refused = machine.vcpus[0]->restore_counter(counter, 0);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().kind(), ErrorKind::kHost);
  EXPECT_THAT(refused.error().message(), HasSubstr(std::to_string(counter.frequency_hz) + " Hz"));
}

// KVM's identifiers of the count and the comparator are swapped: these tell by what the guest sees.
TEST_F(CounterTest, TheComparatorIsNotTakenForTheCount) {
  constexpr std::array<std::uint32_t, 7> kCode{
      0xf9400001,  // ldr x1, [x0]
      0xd51be341,  // msr cntv_cval_el0, x1
      0xd5033fdf,  // isb
      0xf9000001,  // str x1, [x0]
      0xd53be342,  // mrs x2, cntv_cval_el0
      0xf9000002,  // str x2, [x0]
      0x17fffffe,  // b   . - 8
  };
  constexpr std::uint64_t kComparator = 0xfedc'ba98'7654'3210;
  Machine source(1);
  source.put_code(kCode);
  source.answer(kComparator);
  EXPECT_EQ(source.written(), kComparator);
  source.settle();
  const auto state = must(source.vcpus[0]->save());
  ASSERT_NE(state.find(kVirtualCompare), nullptr);
  EXPECT_EQ(must(as_u64(*state.find(kVirtualCompare))), kComparator);
  EXPECT_EQ(state.find(kVirtualCount), nullptr);

  Machine destination(1);
  destination.put_code(kCode);
  must(destination.vcpus[0]->restore(state));
  must(destination.vcpus[0]->restore_counter(must(source.vcpus[0]->save_counter()), kHour));
  EXPECT_EQ(destination.written(), kComparator);
}

// The guest sets its virtual timer far ahead, and moves; the time that passes makes it fire.
TEST_F(CounterTest, TheVirtualTimerFiresAfterTheMove) {
  constexpr std::array<std::uint32_t, 24> kCode{
      0xd2a10002,  // mov  x2, #0x8000000         GICD
      0x52800043,  // mov  w3, #2
      0xb9000043,  // str  w3, [x2]               GICD_CTLR: group 1
      0xd2a10162,  // mov  x2, #0x80b0000         GICR, second frame
      0x52a10003,  // mov  w3, #1 << 27
      0xb9008043,  // str  w3, [x2, #0x80]        GICR_IGROUPR0
      0xb9010043,  // str  w3, [x2, #0x100]       GICR_ISENABLER0
      0xd2801fe3,  // mov  x3, #0xff
      0xd5184603,  // msr  icc_pmr_el1, x3
      0xd2800023,  // mov  x3, #1
      0xd518cce3,  // msr  icc_igrpen1_el1, x3
      0xd53be044,  // mrs  x4, cntvct_el0
      0xf9400005,  // ldr  x5, [x0]
      0x8b050084,  // add  x4, x4, x5
      0xd51be344,  // msr  cntv_cval_el0, x4
      0xd51be323,  // msr  cntv_ctl_el0, x3       enable
      0xd5033fdf,  // isb
      0xf9000004,  // str  x4, [x0]
      0xd503207f,  // wfi
      0xd538cc06,  // mrs  x6, icc_iar1_el1
      0xf9000006,  // str  x6, [x0]
      0xd53be047,  // mrs  x7, cntvct_el0
      0xf9000007,  // str  x7, [x0]
      0x14000000,  // b    .
  };
  constexpr std::uint64_t kVirtualTimer = 27;  // its INTID
  Machine source(1);
  source.put_code(kCode);
  const auto frequency = must(source.vcpus[0]->save_counter()).frequency_hz;
  source.answer(counter_ticks(kHour, frequency));
  const auto deadline = source.written();
  source.settle();
  const auto counter = must(source.vcpus[0]->save_counter());
  const auto state = must(source.vcpus[0]->save());
  const auto gic = must(source.gic->save(source.affinities));

  Machine destination(1);
  destination.put_code(kCode);
  for (const std::uint64_t elapsed : {std::uint64_t{0}, kHour + kSecond}) {  // a rehearsal first
    must(destination.vcpus[0]->restore(state));
    must(destination.gic->restore(gic, destination.affinities));
    must(destination.vcpus[0]->restore_counter(counter, elapsed));
  }
  EXPECT_EQ(destination.written(), kVirtualTimer);
  EXPECT_GE(destination.written(), deadline);
}

}  // namespace
}  // namespace vmm::kvm
