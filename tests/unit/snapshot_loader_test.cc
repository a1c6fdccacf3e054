// With the kernel's own userfaultfd: a process that may not use it (no root, no CAP_SYS_PTRACE, no
// access to /dev/userfaultfd) can only skip these tests, as no fake blocks a system call.
#include "migration/snapshot_loader.h"

#include <array>
#include <atomic>
#include <future>
#include <thread>

#include "block_fakes.h"
#include "devices/io_engine.h"
#include "memory/userfault.h"
#include "snapshot_rig.h"

namespace vmm::migration {
namespace {

using namespace std::chrono_literals;

// As a vCPU does it, which ThreadSanitizer does not see either.
__attribute__((no_sanitize("thread"))) std::byte touch(const std::byte* at) {
  return *reinterpret_cast<const volatile std::byte*>(at);
}
__attribute__((no_sanitize("thread"))) void store(std::byte* at, std::byte value) {
  *reinterpret_cast<volatile std::byte*>(at) = value;
}

class SnapshotLoaderTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto userfault = Userfault::open();
    if (!userfault) GTEST_SKIP() << userfault.error().message();
  }
  // Large enough that what is touched first has not been loaded yet.
  static constexpr std::uint64_t kBytes = 32ULL << 20;
  static constexpr std::uint64_t kPages = kBytes / kPageSize;

  void start() {
    rig.save();
    auto loader = SnapshotLoader::start(
        rig.reader(), memory, [this](Result<> result) { end.set_value(std::move(result)); });
    ASSERT_TRUE(loader) << loader.error().message();
    memory.keep(std::move(loader).value());
  }
  Result<> wait() { return end.get_future().get(); }
  [[nodiscard]] std::byte* page(std::uint64_t number) const {
    return ram_of(memory).data() + number * kPageSize;
  }

  SnapshotRig rig{kBytes};
  GuestMemory memory = snapshot_memory(kBytes);
  std::promise<Result<>> end;
};

TEST_F(SnapshotLoaderTest, InTheEndEverythingIsThere) {
  start();
  const auto result = wait();
  ASSERT_TRUE(result) << result.error().message();
  EXPECT_TRUE(std::ranges::equal(ram_of(memory), ram_of(rig.memory)));
}

TEST_F(SnapshotLoaderTest, WhatIsTouchedIsThereAtOnce) {
  start();
  for (std::uint64_t number = kPages; number-- > 0;) {
    ASSERT_EQ(touch(page(number) + 5), rig.expected(number)) << number;
  }
  EXPECT_TRUE(wait());
}

TEST_F(SnapshotLoaderTest, ManyThreadsTouchTheSamePages) {
  start();
  std::vector<std::thread> threads;
  for (std::uint64_t n = 0; n < 4; ++n) {
    threads.emplace_back([this, n] {
      for (std::uint64_t k = 0; k < kPages; ++k) {
        const std::uint64_t number = (kPages - 1 - k * 67 % kPages) ^ (n & 1);
        ASSERT_EQ(touch(page(number)), rig.expected(number)) << number;
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_TRUE(wait());
}

TEST_F(SnapshotLoaderTest, WhatIsWrittenStays) {
  start();
  for (std::uint64_t number = kPages - 100; number < kPages; ++number) {
    store(page(number) + 9, std::byte{0xff});
  }
  ASSERT_TRUE(wait());
  for (std::uint64_t number = kPages - 100; number < kPages; ++number) {
    EXPECT_EQ(*(page(number) + 9), std::byte{0xff});
    EXPECT_EQ(*page(number), rig.expected(number));
  }
}

// The disk's system calls, by io_uring and in threads.
class SnapshotLoaderIoTest : public SnapshotLoaderTest,
                             public ::testing::WithParamInterface<bool> {};

INSTANTIATE_TEST_SUITE_P(Engines, SnapshotLoaderIoTest, ::testing::Bool(),
                         [](const auto& tested) { return tested.param ? "uring" : "threads"; });

TEST_P(SnapshotLoaderIoTest, SystemCallsWaitForMemoryToo) {
  auto made = GetParam() ? make_uring_engine(2) : make_thread_engine();
  ASSERT_TRUE(made) << made.error().message();
  const TempImage file(1 << 20);
  const auto image = file.open();
  start();
  // Pages that nobody has touched go out, and come in again to the middle of others.
  constexpr std::uint64_t kFrom = kPages - 9;
  constexpr std::uint64_t kTo = kPages - 300;
  const std::array out{iovec{page(kFrom), 3 * kPageSize}};
  const std::array in{iovec{page(kTo) + kSectorSize, kPageSize}};
  for (const bool writes : {true, false}) {
    IoCall call;
    call.kind = writes ? IoCall::Kind::kWrite : IoCall::Kind::kRead;
    call.fd = image->fd().get();
    call.buffers = writes ? std::span(out) : std::span(in);
    made.value()->add(call);
    made.value()->submit();
    made.value()->wait();
    std::array<IoCall*, 1> done{};
    ASSERT_EQ(made.value()->reap(done), 1U);
    EXPECT_EQ(call.result, static_cast<int>(call.buffers[0].iov_len));
  }
  const auto written = contents_of(file.path);
  for (std::uint64_t n = 0; n < 3; ++n) {
    EXPECT_EQ(std::byte(written[n * kPageSize + 17]), rig.expected(kFrom + n)) << n;
  }
  EXPECT_EQ(touch(page(kTo)), rig.expected(kTo)) << "before what was read";
  EXPECT_EQ(touch(page(kTo) + kSectorSize), rig.expected(kFrom));
  EXPECT_EQ(touch(page(kTo + 1) + kSectorSize), rig.expected(kTo + 1)) << "behind it";
  EXPECT_TRUE(wait());
}

TEST_F(SnapshotLoaderTest, WhatIsGivenBackDoesNotComeBack) {
  start();
  std::vector<bool> given(kPages);
  // From the end, where nothing is loaded yet, and of chunks that are under way.
  for (std::uint64_t number = kPages; number-- > 2;) {
    if (number % 5 != 0) continue;
    ASSERT_TRUE(memory.discard(kSnapshotBase + number * kPageSize, kPageSize));
    given[number] = true;
    if (number % 10 == 0) store(page(number), std::byte{0xee});
  }
  ASSERT_TRUE(wait());
  for (std::uint64_t number = 0; number < kPages; ++number) {
    const auto wanted = !given[number]     ? rig.expected(number)
                        : number % 10 == 0 ? std::byte{0xee}
                                           : std::byte{0};
    ASSERT_EQ(*page(number), wanted) << number;
    ASSERT_EQ(*(page(number) + 1), given[number] ? std::byte{0} : rig.expected(number)) << number;
  }
  // Nothing waits any more for what is given back now.
  EXPECT_TRUE(memory.discard(kSnapshotBase, kBytes));
}

TEST_F(SnapshotLoaderTest, NobodyIsGivenDamagedMemory) {
  rig.save();
  const auto bytes = std::filesystem::file_size(rig.path);
  // In one of the last chunks that have pages.
  const auto reader = rig.open();
  const auto offset = kSnapshotHeaderBytes + (reader.value().pages() - 30) * kPageSize;
  ASSERT_LT(offset, bytes);
  rig.flip(offset + 77);
  constexpr std::uint64_t kTouched = kPages - 1 - 32 * 3;
  std::atomic<bool> told = false;
  std::thread reading;
  {
    auto loading = snapshot_memory(kBytes);
    auto loader =
        SnapshotLoader::start(std::make_shared<const SnapshotReader>(rig.open().value()), loading,
                              [this](Result<> result) { end.set_value(std::move(result)); });
    ASSERT_TRUE(loader);
    const std::byte* at = ram_of(loading).data() + kTouched * kPageSize;
    std::promise<void> begun;
    std::promise<void> let_go;
    reading = std::thread([&, at] {
      begun.set_value();
      touch(at);
      told = true;
      let_go.get_future().wait();
    });
    begun.get_future().wait();
    const auto result = wait();
    expect_error(result, ErrorKind::kFailed, "guest memory at offset");
    std::this_thread::sleep_for(20ms);
    EXPECT_FALSE(told) << "it waits for what will never be there";
    loader.value().reset();
    let_go.set_value();
    reading.join();
  }
  EXPECT_TRUE(told);
}

TEST_F(SnapshotLoaderTest, OneThatGoesEarlyTellsNobody) {
  start();
  memory.keep(nullptr);
  EXPECT_EQ(end.get_future().wait_for(0s), std::future_status::timeout);
}

TEST_F(SnapshotLoaderTest, MemoryThatWasTouchedBeforeIsNotOverwritten) {
  store(page(0), std::byte{1});
  start();
  expect_error(wait(), ErrorKind::kHost, "cannot install");
}

TEST_F(SnapshotLoaderTest, MemoryOfAnotherSizeIsRefused) {
  rig.save();
  expect_error(SnapshotLoader::start(rig.reader(), snapshot_memory(2 << 20), {}),
               ErrorKind::kFailed, "and the machine has 2097152");
}

}  // namespace
}  // namespace vmm::migration
