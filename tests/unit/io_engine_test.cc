#include "devices/io_engine.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/falloc.h>
#include <poll.h>

#include <array>
#include <set>
#include <thread>

#include "block_fakes.h"

namespace vmm {
namespace {

constexpr unsigned kDepth = 8;

class IoEngineTest : public ::testing::TestWithParam<bool> {
 protected:
  IoEngineTest() {
    auto made = GetParam() ? make_uring_engine(kDepth) : make_thread_engine();
    EXPECT_TRUE(made) << made.error().message();
    engine = std::move(made).value();
  }
  IoCall call(IoCall::Kind kind, std::uint64_t offset, std::span<const iovec> buffers = {}) const {
    IoCall made;
    made.kind = kind;
    made.fd = image->fd().get();
    made.offset = offset;
    made.buffers = buffers;
    return made;
  }
  // Waits for one call.
  IoCall* next() const {
    engine->wait();
    std::array<IoCall*, 1> done{};
    EXPECT_EQ(engine->reap(done), 1U);
    return done[0];
  }
  std::int32_t run(IoCall& made) const {
    engine->add(made);
    engine->submit();
    EXPECT_EQ(next(), &made);
    return made.result;
  }
  bool ready(int wait_ms = 0) const {
    pollfd fd{engine->ready_fd().get(), POLLIN, 0};
    return ::poll(&fd, 1, wait_ms) == 1;
  }

  TempImage file{1 << 20};
  std::unique_ptr<DiskImage> image = file.open();
  std::unique_ptr<IoEngine> engine;
};

INSTANTIATE_TEST_SUITE_P(Engines, IoEngineTest, ::testing::Bool(),
                         [](const auto& tested) { return tested.param ? "uring" : "threads"; });

TEST_P(IoEngineTest, MakesEveryKindOfCall) {
  std::string first = "first", second = "second";
  const std::array<iovec, 2> parts{{{first.data(), 5}, {second.data(), 6}}};
  IoCall write = call(IoCall::Kind::kWrite, 100, parts);
  EXPECT_EQ(run(write), 11);
  EXPECT_EQ(file.read(100, 11), "firstsecond");
  write.flags = RWF_DSYNC;
  EXPECT_EQ(run(write), 11);

  first = second = "xxxxxx";
  IoCall read = call(IoCall::Kind::kRead, 102, parts);
  EXPECT_EQ(run(read), 11);
  EXPECT_EQ(first, "rstsex");
  EXPECT_EQ(second, "cond" + std::string(2, '\0'));

  IoCall sync = call(IoCall::Kind::kDataSync, 0);
  EXPECT_EQ(run(sync), 0);

  IoCall punch = call(IoCall::Kind::kAllocate, 0);
  punch.length = 4096;
  punch.flags = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
  EXPECT_EQ(run(punch), 0);
  EXPECT_EQ(file.read(100, 4), std::string(4, '\0'));
}

TEST_P(IoEngineTest, ReturnsErrnoAndShortTransfers) {
  std::string text(1024, ' ');
  const iovec part{text.data(), text.size()};
  IoCall short_read = call(IoCall::Kind::kRead, (1 << 20) - 100, {&part, 1});
  EXPECT_EQ(run(short_read), 100);
  IoCall bad = call(IoCall::Kind::kRead, 0, {&part, 1});
  bad.fd = -1;
  EXPECT_EQ(run(bad), -EBADF);
  IoCall bad_mode = call(IoCall::Kind::kAllocate, 0);
  bad_mode.length = 4096;
  bad_mode.flags = FALLOC_FL_PUNCH_HOLE;  // needs KEEP_SIZE
  EXPECT_EQ(run(bad_mode), -EOPNOTSUPP);
}

TEST_P(IoEngineTest, ReadyDescriptorTellsOfResultsUntilTheyAreTaken) {
  EXPECT_FALSE(ready());
  std::array<IoCall, 3> calls;
  for (IoCall& made : calls) {
    made = call(IoCall::Kind::kDataSync, 0);
    engine->add(made);
  }
  engine->submit();
  std::set<IoCall*> seen;
  while (seen.size() < calls.size()) {
    ASSERT_TRUE(ready(10'000));
    std::array<IoCall*, 1> done{};
    if (engine->reap(done) == 1) {
      EXPECT_TRUE(seen.insert(done[0]).second) << "returned twice";
    }
  }
  EXPECT_FALSE(ready());
}

TEST_P(IoEngineTest, TakesAsManyCallsAsItIsDeepAgainAndAgain) {
  std::array<IoCall, kDepth> calls;
  std::array<std::array<char, 512>, kDepth> texts{};
  std::array<iovec, kDepth> parts{};
  for (int round = 0; round < 50; ++round) {
    for (unsigned i = 0; i < kDepth; ++i) {
      parts[i] = {texts[i].data(), texts[i].size()};
      calls[i] = call(round % 2 == 0 ? IoCall::Kind::kWrite : IoCall::Kind::kRead, i * 512ULL,
                      {&parts[i], 1});
      engine->add(calls[i]);
    }
    engine->submit();
    std::set<IoCall*> seen;
    while (seen.size() < kDepth) seen.insert(next());
    for (const IoCall& made : calls) EXPECT_EQ(made.result, 512);
  }
}

// A reset waits on a vCPU's thread for what the event loop has submitted.
TEST_P(IoEngineTest, AnotherThreadMayWait) {
  std::string text(1 << 20, 't');
  const iovec part{text.data(), text.size()};
  for (int round = 0; round < 20; ++round) {
    IoCall write = call(IoCall::Kind::kWrite, 0, {&part, 1});
    IoCall sync = call(IoCall::Kind::kDataSync, 0);
    engine->add(write);
    engine->add(sync);
    engine->submit();
    std::thread other([&] {
      static_cast<void>(next());
      static_cast<void>(next());
    });
    other.join();
    EXPECT_EQ(write.result, 1 << 20);
    EXPECT_EQ(sync.result, 0);
  }
}

}  // namespace
}  // namespace vmm
