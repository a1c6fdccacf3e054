#include "kvm/gic_state.h"

#include <gmock/gmock.h>

#include <algorithm>

namespace vmm::kvm {
namespace {

using ::testing::HasSubstr;

constexpr std::uint32_t kTyper128 = 3;               // 128 interrupts
constexpr std::uint64_t kFivePriorityBits = 4 << 8;  // ICC_CTLR_EL1.PRIbits

template <typename T>
std::vector<T> numbered(std::size_t count, T& next) {
  std::vector<T> values(count);
  for (auto& value : values) value = next++;
  return values;
}

GicState example() {
  GicState state;
  std::uint32_t next = 0x1000;
  std::uint64_t next_wide = 0x1'0000'0000;
  state.iidr = 0x4b00'243b;
  state.typer = kTyper128;
  state.distributor = numbered(gic_distributor_registers(128).size(), next);
  state.line_levels = numbered(3, next);
  for (const std::uint64_t affinity : {0x0ULL, 0x1ULL, 0xff'00ff'ffffULL}) {
    GicState::Cpu cpu;
    cpu.affinity = affinity;
    cpu.redistributor = numbered(gic_redistributor_registers().size(), next);
    cpu.line_levels = next++;
    cpu.control = kFivePriorityBits;
    cpu.interface = numbered(gic_interface_registers(cpu.control).size(), next_wide);
    state.cpus.push_back(std::move(cpu));
  }
  return state;
}

std::vector<std::byte> bytes_of(const GicState& state) {
  ByteWriter writer;
  state.save(writer);
  return writer.take();
}

std::string refusal(std::span<const std::byte> bytes) {
  ByteReader reader(bytes);
  const auto state = GicState::restore(reader);
  return state ? "accepted" : state.error().message();
}

TEST(GicStateTest, EveryVcpusRegistersSurviveTheMove) {
  const auto state = example();
  const auto bytes = bytes_of(state);
  ByteReader reader(bytes);
  const auto restored = GicState::restore(reader);
  ASSERT_TRUE(restored) << restored.error().message();
  EXPECT_TRUE(reader.expect_end());
  EXPECT_EQ(restored.value(), state);
}

TEST(GicStateTest, StateThatEndsEarlyIsRefusedAtEveryLength) {
  const auto bytes = bytes_of(example());
  for (std::size_t length = 0; length < bytes.size(); ++length) {
    EXPECT_NE(refusal(std::span(bytes).first(length)), "accepted") << length;
  }
}

TEST(GicStateTest, TwoVcpusOfOneAffinityAreRefused) {
  auto state = example();
  state.cpus[2].affinity = state.cpus[1].affinity;
  EXPECT_THAT(refusal(bytes_of(state)), HasSubstr("twice"));
}

TEST(GicStateTest, AnotherVersionAndTooManyVcpusAreRefused) {
  auto bytes = bytes_of(example());
  bytes[0] = std::byte{7};
  EXPECT_THAT(refusal(bytes), HasSubstr("version 7"));

  GicState state;
  state.distributor.resize(gic_distributor_registers(32).size());
  state.cpus.resize(GicState::kMaxCpus + 1);
  EXPECT_THAT(refusal(bytes_of(state)), HasSubstr("512 are allowed"));
}

TEST(GicStateTest, ALongerTypeRegisterAsksForMoreRegisters) {
  auto state = example();
  state.typer = 0x1f;
  EXPECT_NE(refusal(bytes_of(state)), "accepted");
  EXPECT_EQ(gic_interrupts(0xffff'ffff), kMaxInterrupts);
  EXPECT_EQ(gic_interrupts(0), kPrivateInterrupts);
}

std::size_t position(const std::vector<GicRegister>& table, std::uint32_t offset) {
  const auto found = std::ranges::find(table, offset, &GicRegister::offset);
  EXPECT_NE(found, table.end()) << std::hex << offset;
  return static_cast<std::size_t>(found - table.begin());
}

TEST(GicTableTest, WhatAnInterruptIsComesBeforeItsState) {
  const auto table = gic_distributor_registers(128);
  EXPECT_LT(position(table, 0x84), position(table, 0x104));    // group, enabled
  EXPECT_LT(position(table, 0xc08), position(table, 0x204));   // trigger, pending
  EXPECT_LT(position(table, 0x420), position(table, 0x204));   // priority, pending
  EXPECT_LT(position(table, 0x6100), position(table, 0x204));  // route of INTID 32, pending
  EXPECT_LT(position(table, 0x204), position(table, 0x304));   // pending, active
}

TEST(GicTableTest, CoversExactlyTheSharedInterrupts) {
  const auto table = gic_distributor_registers(128);
  // CTLR, STATUSR; per 32 interrupts a word of four bitmaps, two of triggers, eight of priorities
  // and 32 routes.
  EXPECT_EQ(table.size(), 2U + 3U * (4 + 2 + 8 + 32));
  EXPECT_EQ(table[position(table, 0x104)].clear_offset, 0x184U);
  EXPECT_EQ(table[position(table, 0x30c)].clear_offset, 0x38cU);
  EXPECT_EQ(table[position(table, 0x20c)].clear_offset, 0U);
  for (const std::uint32_t private_one : {0x80U, 0x100U, 0x200U, 0x300U, 0x400U, 0xc00U, 0x6000U}) {
    EXPECT_EQ(std::ranges::find(table, private_one, &GicRegister::offset), table.end());
  }
  EXPECT_EQ(gic_distributor_registers(32).size(), 2U);
}

TEST(GicTableTest, PrivateInterruptsAreInTheRedistributorsSecondFrame) {
  const auto table = gic_redistributor_registers();
  EXPECT_EQ(table.size(), 3U + 1 + 2 + 8 + 1 + 1 + 1);
  EXPECT_EQ(table[position(table, 0x1'0100)].clear_offset, 0x1'0180U);
  EXPECT_EQ(table[position(table, 0x1'0300)].clear_offset, 0x1'0380U);
  EXPECT_EQ(position(table, 0x1'0c04), position(table, 0x1'0c00) + 1);
}

TEST(GicTableTest, ThePriorityBitsSayHowManyActivePriorityRegistersThereAre) {
  struct Case {
    unsigned bits;
    std::size_t registers;
  };
  for (const auto& [bits, registers] :
       {Case{1, 2}, Case{5, 2}, Case{6, 4}, Case{7, 8}, Case{8, 8}}) {
    const std::uint64_t control = std::uint64_t{bits - 1} << 8;
    EXPECT_EQ(gic_interface_registers(control).size(), 6 + registers) << bits;
  }
}

}  // namespace
}  // namespace vmm::kvm
