#include "kvm/vcpu_state.h"

#include <gmock/gmock.h>

#include "kvm/counter.h"
#include "kvm/register_id.h"

namespace vmm::kvm {
namespace {

using ::testing::HasSubstr;

constexpr std::uint64_t kX0 = kRegisterArm64 | kRegisterU64 | 0x10'0000;
constexpr std::uint64_t kV0 = kRegisterArm64 | 4ULL << kRegisterSizeShift | 0x10'0054;
constexpr std::uint64_t kZ0 = kRegisterArm64 | 8ULL << kRegisterSizeShift | 0x15'0000;
constexpr std::uint64_t kSctlr = system_register(3, 0, 1, 0, 0);

RegisterValue filled(std::uint64_t id) {
  RegisterValue value{id, std::vector<std::byte>(register_size(id))};
  std::uint8_t next = 1;
  for (auto& byte : value.bytes) byte = std::byte{next++};
  return value;
}

VcpuState example() {
  VcpuState state;
  for (const auto id : {kX0, kV0, kZ0, kSctlr, kVirtualCompare}) {
    state.registers.push_back(filled(id));
  }
  state.power = PowerState::kOff;
  state.serror_pending = true;
  state.serror_has_syndrome = true;
  state.serror_syndrome = 0x1'2345;
  return state;
}

std::vector<std::byte> bytes_of(const VcpuState& state) {
  ByteWriter writer;
  state.save(writer);
  return writer.take();
}

std::string refusal(std::span<const std::byte> bytes) {
  ByteReader reader(bytes);
  const auto state = VcpuState::restore(reader);
  return state ? "accepted" : state.error().message();
}

std::string refusal_of(const VcpuState& state) {
  return refusal(bytes_of(state));
}

TEST(VcpuStateTest, EveryRegisterSizeSurvivesTheMove) {
  const auto state = example();
  const auto bytes = bytes_of(state);
  ByteReader reader(bytes);
  const auto restored = VcpuState::restore(reader);
  ASSERT_TRUE(restored) << restored.error().message();
  EXPECT_TRUE(reader.expect_end());
  EXPECT_EQ(restored.value(), state);
  EXPECT_EQ(restored.value().find(kZ0)->bytes.size(), 256U);
  EXPECT_EQ(restored.value().find(kMpidrEl1), nullptr);
}

TEST(VcpuStateTest, StateThatEndsEarlyIsRefusedAtEveryLength) {
  const auto bytes = bytes_of(example());
  for (std::size_t length = 0; length < bytes.size(); ++length) {
    EXPECT_NE(refusal(std::span(bytes).first(length)), "accepted") << length;
  }
}

TEST(VcpuStateTest, RegistersThatNoVcpuHasOfItsOwnAreRefused) {
  struct Case {
    const char* why;
    std::uint64_t id;
    const char* words;
  };
  for (const auto& [why, id, words] :
       {Case{"another architecture's", 0x2030'0000'0010'0000, "no family"},
        Case{"family of a later kernel", kRegisterArm64 | kRegisterU64 | 0x17'0000, "no family"},
        Case{"high coprocessor bits", kRegisterArm64 | kRegisterU64 | 0x113'0000, "no family"},
        Case{"too large", kRegisterArm64 | 9ULL << kRegisterSizeShift | 0x10'0000, "no known size"},
        Case{"virtual count", kVirtualCount, "counter"},
        Case{"physical count", kPhysicalCount, "counter"}}) {
    VcpuState state;
    state.registers.push_back({id, std::vector<std::byte>(512)});
    EXPECT_THAT(refusal_of(state), HasSubstr(words)) << why;
  }
}

TEST(VcpuStateTest, ARegisterThatComesTwiceIsRefused) {
  auto state = example();
  state.registers.push_back(filled(kSctlr));
  EXPECT_THAT(refusal_of(state), HasSubstr("twice"));
}

TEST(VcpuStateTest, CountsAndCodesAreChecked) {
  struct Case {
    const char* why;
    std::vector<std::uint32_t> words;
    const char* refusal;
  };
  for (const auto& [why, words, text] :
       {Case{"version", {2, 0, 0, 0, 0}, "version 2"},
        Case{"more registers than any CPU has", {1, 4097}, "4096 are allowed"},
        Case{"power state", {1, 0, 3, 0, 0}, "power state 3"},
        Case{"flag", {1, 0, 0x0200, 0, 0}, "0 or 1"}}) {
    ByteWriter writer;
    for (const auto word : words) writer.put(word);
    EXPECT_THAT(refusal(writer.bytes()), HasSubstr(text)) << why;
  }
}

TEST(VcpuStateTest, UpToSixtyFourBitsAreANumber) {
  EXPECT_EQ(as_u64(filled(kX0)).value(), 0x0807'0605'0403'0201U);
  EXPECT_FALSE(as_u64(filled(kV0)));
}

TEST(CounterTest, SurvivesTheMove) {
  const Counter counter{62'500'000, 1, ~0ULL};
  ByteWriter writer;
  counter.save(writer);
  ByteReader reader(writer.bytes());
  EXPECT_EQ(Counter::restore(reader).value(), counter);
  for (std::size_t length = 0; length < writer.bytes().size(); ++length) {
    ByteReader cut(writer.bytes().first(length));
    EXPECT_FALSE(Counter::restore(cut)) << length;
  }
}

TEST(CounterTest, FrequenciesThatNoCounterHasAreRefused) {
  struct Case {
    std::uint64_t hertz;
    bool good;
  };
  for (const auto& [hertz, good] :
       {Case{0, false}, Case{Counter::kMinHz - 1, false}, Case{Counter::kMinHz, true},
        Case{Counter::kMaxHz, true}, Case{Counter::kMaxHz + 1, false}, Case{~0ULL, false}}) {
    ByteWriter writer;
    Counter{hertz, 0, 0}.save(writer);
    ByteReader reader(writer.bytes());
    EXPECT_EQ(Counter::restore(reader).has_value(), good) << hertz;
  }
  ByteWriter writer;
  Counter{Counter::kMinHz, 0, 0}.save(writer);
  auto other_version = writer.take();
  other_version[0] = std::byte{9};
  ByteReader reader(other_version);
  EXPECT_FALSE(Counter::restore(reader));
}

TEST(CounterTest, TicksAreExactForAnyDuration) {
  EXPECT_EQ(counter_ticks(0, 62'500'000), 0U);
  EXPECT_EQ(counter_ticks(15, 62'500'000), 0U);
  EXPECT_EQ(counter_ticks(16, 62'500'000), 1U);
  EXPECT_EQ(counter_ticks(1'000'000'000, 62'500'000), 62'500'000U);
  EXPECT_EQ(counter_ticks(999'999'999, Counter::kMaxHz), 3'999'999'996U);
  // A year, which times the frequency is far more than 64 bits.
  constexpr std::uint64_t kYear = 31'536'000'000'000'000;
  EXPECT_EQ(counter_ticks(kYear, 1'000'000'000), kYear);
  EXPECT_EQ(counter_ticks(kYear + 1'500'000'000, 1'000'000), 31'536'000'000'000U + 1'500'000U);
}

}  // namespace
}  // namespace vmm::kvm
