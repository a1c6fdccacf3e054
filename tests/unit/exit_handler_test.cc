#include "vmm/exit_handler.h"

#include <array>

#include "vmm_support.h"

namespace vmm {
namespace {

constexpr std::uint64_t kBase = 0x900'0000;

class FakeDevice final : public MmioDevice {
 public:
  void mmio_read(std::uint64_t offset, std::span<std::byte> data) override {
    last_offset = offset;
    for (auto& byte : data) byte = std::byte{0xab};
  }
  void mmio_write(std::uint64_t offset, std::span<const std::byte> data) override {
    last_offset = offset;
    written = text_of(data);
  }
  std::uint64_t last_offset = ~0ULL;
  std::string written;
};

class ExitHandlerTest : public ::testing::Test {
 protected:
  ExitHandlerTest() { EXPECT_TRUE(bus_.add(kBase, 0x1000, device_)); }
  Result<VcpuAction> handle(const kvm::Exit& exit) { return handle_exit(exit, bus_, counts_); }
  // reads, writes, unclaimed, undecoded, interrupted
  [[nodiscard]] std::array<std::uint64_t, 5> counts() const {
    return {counts_.mmio_reads, counts_.mmio_writes, counts_.unclaimed, counts_.undecoded,
            counts_.interrupted};
  }

  FakeDevice device_;
  MmioBus bus_;
  ExitCounts counts_;
};

using Counts = std::array<std::uint64_t, 5>;

TEST_F(ExitHandlerTest, ReadsComeFromTheDevice) {
  std::array<std::byte, 4> data{};
  EXPECT_EQ(handle(kvm::MmioRead{kBase + 0x18, data}).value(), VcpuAction::kContinue);
  EXPECT_EQ(device_.last_offset, 0x18U);
  EXPECT_EQ(text_of(data), "\xab\xab\xab\xab");
  EXPECT_EQ(counts(), (Counts{1, 0, 0, 0, 0}));
}

TEST_F(ExitHandlerTest, WritesGoToTheDevice) {
  EXPECT_EQ(handle(kvm::MmioWrite{kBase + 0x20, bytes_of("ab")}).value(), VcpuAction::kContinue);
  EXPECT_EQ(device_.last_offset, 0x20U);
  EXPECT_EQ(device_.written, "ab");
  EXPECT_EQ(counts(), (Counts{0, 1, 0, 0, 0}));
}

TEST_F(ExitHandlerTest, WhatNoDeviceClaimsReadsAsZeroAndIgnoresWrites) {
  for (const std::uint64_t address :
       std::initializer_list<std::uint64_t>{kBase - 4, kBase + 0x1000, kBase + 0xffe, ~0ULL - 3}) {
    std::array<std::byte, 4> data{};
    data.fill(std::byte{0xff});
    EXPECT_EQ(handle(kvm::MmioRead{address, data}).value(), VcpuAction::kContinue);
    EXPECT_EQ(text_of(data), std::string(4, '\0')) << std::hex << address;
    EXPECT_EQ(handle(kvm::MmioWrite{address, bytes_of("abcd")}).value(), VcpuAction::kContinue);
  }
  EXPECT_EQ(device_.last_offset, ~0ULL) << "never called";
  EXPECT_EQ(counts(), (Counts{4, 4, 8, 0, 0}));
}

TEST_F(ExitHandlerTest, UndecodedAccessesGetAnAbort) {
  EXPECT_EQ(handle(kvm::UndecodedAccess{kBase}).value(), VcpuAction::kInjectAbort);
  EXPECT_EQ(counts(), (Counts{0, 0, 0, 1, 0}));
}

TEST_F(ExitHandlerTest, InterruptionsAreCountedAndGoOn) {
  EXPECT_EQ(handle(kvm::Interrupted{}).value(), VcpuAction::kContinue);
  EXPECT_EQ(handle(kvm::Interrupted{}).value(), VcpuAction::kContinue);
  EXPECT_EQ(counts(), (Counts{0, 0, 0, 0, 2}));
}

TEST_F(ExitHandlerTest, SystemEventsEndTheRun) {
  EXPECT_EQ(handle(kvm::SystemEvent::kShutdown).value(), VcpuAction::kShutdown);
  EXPECT_EQ(handle(kvm::SystemEvent::kReset).value(), VcpuAction::kReset);
  EXPECT_EQ(handle(kvm::SystemEvent::kCrash).value(), VcpuAction::kCrash);
  EXPECT_EQ(counts(), (Counts{0, 0, 0, 0, 0}));
}

TEST_F(ExitHandlerTest, FailuresOfKvmNameReasonAndDetail) {
  expect_error(handle(kvm::Failure{17, 0x1234}), ErrorKind::kFailed,
               "exit reason 17, detail 0x1234");
}

}  // namespace
}  // namespace vmm
