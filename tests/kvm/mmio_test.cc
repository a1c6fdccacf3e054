#include <array>

#include "guest_fixture.h"

namespace vmm::kvm {
namespace {

constexpr std::uint64_t kPattern = 0x1122'3344'5566'7788;

using MmioTest = GuestTest;

TEST_F(MmioTest, AStoreOfEverySizeReachesTheHandler) {
  constexpr std::array<std::uint32_t, 9> kCode{
      0xd28ef101,  // mov  x1, #0x7788
      0xf2aaacc1,  // movk x1, #0x5566, lsl #16
      0xf2c66881,  // movk x1, #0x3344, lsl #32
      0xf2e22441,  // movk x1, #0x1122, lsl #48
      0x39000001,  // strb w1, [x0]
      0x79000401,  // strh w1, [x0, #2]
      0xb9000401,  // str  w1, [x0, #4]
      0xf9000401,  // str  x1, [x0, #8]
      0x14000000,  // b    .
  };
  start(kCode);
  expect_write(0, 0x88, 1);
  expect_write(2, 0x7788, 2);
  expect_write(4, 0x5566'7788, 4);
  expect_write(8, kPattern, 8);
}

struct Load {
  const char* name;
  std::uint32_t instruction;
  std::size_t size;
  std::uint64_t device_value;
  std::uint64_t register_value;
};

class LoadTest : public GuestTest, public ::testing::WithParamInterface<Load> {};

TEST_P(LoadTest, TheValueOfTheHandlerReachesTheRegister) {
  const std::array<std::uint32_t, 4> code{
      0x92800001,              // mov  x1, #-1
      GetParam().instruction,  // ld.. x1, [x0]
      0xf9000401,              // str  x1, [x0, #8]
      0x14000000,              // b    .
  };
  start(code);
  const auto read = run_to<MmioRead>();
  EXPECT_EQ(read.address, kDevice);
  ASSERT_EQ(read.data.size(), GetParam().size);
  std::memcpy(read.data.data(), &GetParam().device_value, read.data.size());
  expect_write(8, GetParam().register_value);
}

INSTANTIATE_TEST_SUITE_P(
    Sizes, LoadTest,
    ::testing::Values(Load{"byte", 0x39400001, 1, 0x88, 0x88},                 // ldrb  w1, [x0]
                      Load{"half", 0x79400001, 2, 0x7788, 0x7788},             // ldrh  w1, [x0]
                      Load{"word", 0xb9400001, 4, 0x8566'7788, 0x8566'7788},   // ldr   w1, [x0]
                      Load{"doubleword", 0xf9400001, 8, kPattern, kPattern}),  // ldr   x1, [x0]
    [](const auto& test) { return test.param.name; });

TEST_F(MmioTest, RamIsSharedWithTheHost) {
  constexpr std::array<std::uint32_t, 7> kCode{
      0xd2a80007,  // mov  x7, #0x40000000
      0xf2820007,  // movk x7, #0x1000
      0xf94000e1,  // ldr  x1, [x7]
      0x91000421,  // add  x1, x1, #1
      0xf90000e1,  // str  x1, [x7]
      0xf9000001,  // str  x1, [x0]
      0x14000000,  // b    .
  };
  start(kCode);
  std::memcpy(ram_.data() + 0x1000, &kPattern, sizeof kPattern);
  expect_write(0, kPattern + 1);
  EXPECT_EQ(little_endian(ram_.bytes().subspan(0x1000, 8)), kPattern + 1);
}

// The loop of a vCPU thread relies on this: a pause leaves no exit half done.
TEST_F(MmioTest, AnOpenReadIsFinishedByTheNextRunThoughItIsToLeave) {
  constexpr std::array<std::uint32_t, 3> kCode{
      0xf9400001,  // ldr x1, [x0]
      0xf9000401,  // str x1, [x0, #8]
      0x14000000,  // b   .
  };
  start(kCode);
  const auto read = run_to<MmioRead>();
  EXPECT_EQ(vcpu().program_counter().value(), kRam);
  std::memcpy(read.data.data(), &kPattern, sizeof kPattern);
  vcpu().request_exit();
  run_to<Interrupted>();
  EXPECT_EQ(vcpu().program_counter().value(), kRam + 4);
  std::memset(read.data.data(), 0, read.data.size());  // nobody looks at it any more
  vcpu().allow_run();
  expect_write(8, kPattern);
}

// A vector table at kVectors that reports syndrome and fault address.
constexpr std::uint64_t kVectors = 0x800;
constexpr std::uint64_t kSynchronousSameEl = 0x200;  // offset in the table (Arm ARM, D1.3.1)

TEST_F(MmioTest, ALoadPairIsUndecodedAndTheGuestGetsAnAbort) {
  constexpr std::array<std::uint32_t, 8> kCode{
      0xd2a80002,  // mov  x2, #0x40000000
      0xf2810002,  // movk x2, #0x800
      0xd518c002,  // msr  vbar_el1, x2
      0xd5033fdf,  // isb
      0xd2a14008,  // mov  x8, #0xa000000
      0xa9401905,  // ldp  x5, x6, [x8]
      0xf9000000,  // str  x0, [x0]       not reached
      0x14000000,  // b    .
  };
  constexpr std::array<std::uint32_t, 5> kHandler{
      0xd5386003,  // mrs x3, far_el1
      0xd5385204,  // mrs x4, esr_el1
      0xf9000803,  // str x3, [x0, #16]
      0xf9000c04,  // str x4, [x0, #24]
      0x14000000,  // b   .
  };
  start(kCode);
  put_code(kVectors + kSynchronousSameEl, kHandler);
  EXPECT_EQ(run_to<UndecodedAccess>().address, 0x0a00'0000U);
  ASSERT_TRUE(vcpu().inject_data_abort());
  expect_write(16, 0x0a00'0000);
  constexpr unsigned kClassShift = 26;
  constexpr std::uint64_t kDataAbortSameEl = 0x25;
  EXPECT_EQ(written() >> kClassShift & 0x3f, kDataAbortSameEl);
}

TEST_F(MmioTest, OverlappingUnalignedOrUnreachableMemoryIsRefused) {
  constexpr std::array<std::uint32_t, 1> kCode{0x14000000};  // b .
  start(kCode);
  auto more = Mapping::anonymous(kRamSize, 64 * 1024);
  ASSERT_TRUE(more);
  const auto bytes = more.value().bytes();
  const auto overlap = vm_->set_memory(1, kRam + kRamSize / 2, bytes);
  ASSERT_FALSE(overlap);
  EXPECT_EQ(overlap.error().system_errno(), EEXIST);
  EXPECT_EQ(overlap.error().kind(), ErrorKind::kHost);
  EXPECT_NE(overlap.error().message().find("KVM_SET_USER_MEMORY_REGION"), std::string::npos);
  EXPECT_FALSE(vm_->set_memory(1, kRam + kRamSize + 0x123, bytes));
  EXPECT_FALSE(vm_->set_memory(1, kRam + kRamSize, bytes.subspan(1, 100)));
  EXPECT_FALSE(vm_->set_memory(1, (1ULL << kIpaBits) - kRamSize / 2, bytes));
  EXPECT_TRUE(vm_->set_memory(1, kRam + kRamSize, bytes));
}

}  // namespace
}  // namespace vmm::kvm
