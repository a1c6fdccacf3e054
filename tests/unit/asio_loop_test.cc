#include "vmm/asio_loop.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <thread>

namespace vmm {
namespace {

using namespace std::chrono_literals;

class AsioLoopTest : public ::testing::Test {
 protected:
  // Runs handlers for a moment.
  void run() {
    context_.restart();
    context_.run_for(20ms);
  }
  void run_until(const bool& done) {
    context_.restart();
    while (!done) context_.run_one();
  }

  boost::asio::io_context context_;
  AsioLoop loop_{context_};
  Fd event_ = make_eventfd().value();
};

void drain(const Fd& fd) {
  std::uint64_t count = 0;
  static_cast<void>(::read(fd.get(), &count, sizeof count));
}

TEST_F(AsioLoopTest, AWatchFiresAsLongAsThereIsSomethingToRead) {
  int calls = 0;
  const auto watch = loop_.watch_readable(event_, [&] {
    if (++calls == 3) drain(event_);
  });
  run();
  EXPECT_EQ(calls, 0);
  signal_eventfd(event_);
  run();
  EXPECT_EQ(calls, 3);
  signal_eventfd(event_);
  calls = 2;
  run();
  EXPECT_EQ(calls, 3);
}

TEST_F(AsioLoopTest, AWatchThatIsOffWaitsUntilItIsOnAgain) {
  int calls = 0;
  const auto watch = loop_.watch_readable(event_, [&] {
    ++calls;
    drain(event_);
  });
  watch->set_enabled(false);
  signal_eventfd(event_);
  run();
  EXPECT_EQ(calls, 0);
  watch->set_enabled(true);
  run();
  EXPECT_EQ(calls, 1);
}

TEST_F(AsioLoopTest, AWatchMayBeTurnedOffAndOnByItsOwnHandlerAndByOtherThreads) {
  int calls = 0;
  std::unique_ptr<Watch> watch;
  watch = loop_.watch_readable(event_, [&] {
    ++calls;
    watch->set_enabled(false);
  });
  signal_eventfd(event_);
  run();
  EXPECT_EQ(calls, 1);
  std::thread([&] { watch->set_enabled(true); }).join();
  run();
  EXPECT_EQ(calls, 2);
}

TEST_F(AsioLoopTest, AWatchThatIsGoneFiresNoMoreAndLeavesTheDescriptorOpen) {
  int calls = 0;
  auto watch = loop_.watch_readable(event_, [&] { ++calls; });
  signal_eventfd(event_);
  watch.reset();
  run();
  EXPECT_EQ(calls, 0);
  drain(event_);
  signal_eventfd(event_);  // aborts where the descriptor is closed
}

TEST_F(AsioLoopTest, AWatchMayEndInItsOwnHandler) {
  std::unique_ptr<Watch> watch;
  int calls = 0;
  watch = loop_.watch_readable(event_, [&] {
    ++calls;
    watch.reset();
  });
  signal_eventfd(event_);
  run();
  EXPECT_EQ(calls, 1);
}

TEST_F(AsioLoopTest, WritableIsToldToo) {
  std::array<int, 2> ends{};
  ASSERT_EQ(::pipe2(ends.data(), O_NONBLOCK), 0);
  const Fd reader(ends[0]);
  const Fd writer(ends[1]);
  bool ready = false;
  std::unique_ptr<Watch> watch;
  watch = loop_.watch_writable(writer, [&] {
    ready = true;
    watch->set_enabled(false);
  });
  run_until(ready);
}

TEST_F(AsioLoopTest, ADescriptorMayBeWatchedBothWays) {
  int reads = 0;
  int writes = 0;
  auto readable = loop_.watch_readable(event_, [&] {
    ++reads;
    drain(event_);
  });
  std::unique_ptr<Watch> writable;
  writable = loop_.watch_writable(event_, [&] {
    ++writes;
    writable->set_enabled(false);
  });
  run();
  EXPECT_EQ(reads, 0);
  EXPECT_EQ(writes, 1);
  signal_eventfd(event_);
  run();
  EXPECT_EQ(reads, 1);
  // Each goes without the other; a new one may come for the same descriptor.
  readable.reset();
  writable->set_enabled(true);
  run();
  EXPECT_EQ(writes, 2);
  writable.reset();
  readable = loop_.watch_readable(event_, [&] {
    ++reads;
    drain(event_);
  });
  signal_eventfd(event_);
  run();
  EXPECT_EQ(reads, 2);
}

TEST_F(AsioLoopTest, ATimerExpiresOnceAndALaterSettingReplacesIt) {
  int calls = 0;
  const auto timer = loop_.make_timer([&] { ++calls; });
  timer->expires_after(1h);
  timer->expires_after(1ms);
  run();
  EXPECT_EQ(calls, 1);
  run();
  EXPECT_EQ(calls, 1);
}

TEST_F(AsioLoopTest, ACancelledTimerAndOneThatIsGoneDoNotExpire) {
  int calls = 0;
  auto timer = loop_.make_timer([&] { ++calls; });
  timer->expires_after(1ms);
  timer->cancel();
  run();
  timer->expires_after(1ms);
  timer.reset();
  run();
  EXPECT_EQ(calls, 0);
}

}  // namespace
}  // namespace vmm
