#include "vmm/console.h"

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>

#include <string>
#include <thread>

#include "vmm_support.h"

namespace vmm {
namespace {

constexpr std::size_t kHistory = 16 * 1024;
constexpr std::size_t kMaxPending = 256 * 1024;
constexpr std::size_t kMaxInput = 64 * 1024;

class Recorder final : public ConsoleListener {
 public:
  void console_output(std::span<const std::byte> bytes) override {
    text += text_of(bytes);
    ++calls;
  }
  std::string text;
  int calls = 0;
};

std::string pattern(std::size_t size) {
  std::string text(size, '\0');
  for (std::size_t i = 0; i < size; ++i) text[i] = static_cast<char>('a' + i % 23);
  return text;
}

class ConsoleTest : public ::testing::Test {
 protected:
  void write(std::string_view text) { console_.write(bytes_of(text)); }
  void input(std::string_view text) { console_.input(bytes_of(text)); }
  void poll() {
    loop_.restart();
    loop_.poll();
  }
  // A UART that has room for so many bytes until more is given.
  void connect_uart(std::size_t room) {
    room_ = room;
    console_.connect_device([this](std::span<const std::byte> bytes) {
      const auto taken = std::min(room_, bytes.size());
      room_ -= taken;
      uart_ += text_of(bytes.first(taken));
      return taken;
    });
  }

  boost::asio::io_context loop_;
  Console console_{loop_};
  std::size_t room_ = 0;
  std::string uart_;
};

TEST_F(ConsoleTest, OutputReachesEveryListenerOnTheLoop) {
  Recorder first;
  Recorder second;
  console_.attach(first);
  console_.attach(second);
  write("hello ");
  write("world");
  EXPECT_EQ(first.text, "") << "not on the thread of the vCPU";
  poll();
  EXPECT_EQ(first.text, "hello world");
  EXPECT_EQ(first.calls, 1) << "what gathers is handed over at once";
  EXPECT_EQ(second.text, "hello world");
  console_.detach(first);
  write("!");
  poll();
  EXPECT_EQ(first.text, "hello world");
  EXPECT_EQ(second.text, "hello world!");
  EXPECT_EQ(console_.output_bytes(), 12U);
}

TEST_F(ConsoleTest, NewListenersGetTheRecentOutputOnce) {
  write("before, ");
  Recorder listener;
  console_.attach(listener);
  EXPECT_EQ(listener.text, "before, ") << "at once, though the loop has not run";
  poll();
  write("after");
  poll();
  EXPECT_EQ(listener.text, "before, after");
}

TEST_F(ConsoleTest, TheHistoryKeepsTheLastBytes) {
  const auto text = pattern(5 * kHistory / 2);
  for (std::size_t at = 0; at < text.size(); at += 1000) {
    write(text.substr(at, 1000));
    poll();
  }
  Recorder listener;
  console_.attach(listener);
  EXPECT_TRUE(listener.text == text.substr(text.size() - kHistory));
}

TEST_F(ConsoleTest, WithoutHistoryNothingIsHandedOver) {
  Recorder listener;
  console_.attach(listener);
  poll();
  EXPECT_EQ(listener.calls, 0);
}

TEST_F(ConsoleTest, OutputFasterThanTheLoopIsDroppedAndCounted) {
  Recorder listener;
  console_.attach(listener);
  const auto text = pattern(kMaxPending);
  write(text.substr(0, kMaxPending - 10));
  write(text.substr(kMaxPending - 10) + "lost");
  write("lost as well");
  EXPECT_EQ(console_.output_bytes(), kMaxPending);
  EXPECT_EQ(console_.dropped_bytes(), 4U + 12U);
  poll();
  EXPECT_TRUE(listener.text == text);
  write("again");
  poll();
  EXPECT_TRUE(listener.text == text + "again");
}

TEST_F(ConsoleTest, FlushHandsOverWithoutTheLoop) {
  Recorder listener;
  console_.attach(listener);
  write("last words");
  console_.flush();
  EXPECT_EQ(listener.text, "last words");
  poll();
  EXPECT_EQ(listener.text, "last words");
}

TEST_F(ConsoleTest, InputWaitsForAUartAndForItsRoom) {
  input("abc");
  connect_uart(0);
  EXPECT_EQ(uart_, "");
  room_ = 2;
  console_.device_has_space();
  EXPECT_EQ(uart_, "") << "not on the thread of the vCPU";
  poll();
  EXPECT_EQ(uart_, "ab");
  room_ = 100;
  console_.device_has_space();
  console_.device_has_space();
  poll();
  EXPECT_EQ(uart_, "abc");
  input("defg");
  EXPECT_EQ(uart_, "abcdefg") << "at once where there is room";
}

TEST_F(ConsoleTest, InputGoesToTheUartInPiecesOfAnySize) {
  connect_uart(0);
  const auto text = pattern(1000);
  input(text);
  for (std::size_t i = 1; uart_.size() < text.size(); ++i) {
    ASSERT_LT(i, 2000U);
    room_ = i % 70;
    console_.device_has_space();
    poll();
  }
  EXPECT_EQ(uart_, text);
}

TEST_F(ConsoleTest, InputOfARebootGoesToTheNewUart) {
  connect_uart(1);
  input("abc");
  console_.connect_device({});
  input("d");
  console_.device_has_space();  // late, of the old one
  poll();
  EXPECT_EQ(uart_, "a");
  connect_uart(100);
  EXPECT_EQ(uart_, "abcd");
}

TEST_F(ConsoleTest, TheSizeOfTheTerminalIsToldNowAndAfterAReboot) {
  std::vector<TerminalSize> sizes;
  const auto connect = [&] {
    console_.connect_device([](std::span<const std::byte>) { return std::size_t{0}; },
                            [&sizes](TerminalSize size) { sizes.push_back(size); });
  };
  connect();
  EXPECT_TRUE(sizes.empty()) << "nothing is known yet";
  console_.resize({80, 24});
  console_.connect_device({});
  console_.resize({132, 43});
  connect();
  EXPECT_THAT(sizes, ::testing::ElementsAre(TerminalSize{80, 24}, TerminalSize{132, 43}));
  console_.connect_device([](std::span<const std::byte>) { return std::size_t{0}; });
  console_.resize({1, 2});  // a device without a size
}

TEST_F(ConsoleTest, ReadersWaitWhileTheGuestDoesNotListen) {
  connect_uart(0);
  int reads = 0;
  boost::asio::co_spawn(
      loop_,
      [&]() -> boost::asio::awaitable<void> {
        for (; reads < 100; ++reads) {
          co_await console_.input_space();
          input(std::string(1024, 'x'));
        }
      },
      boost::asio::detached);
  poll();
  EXPECT_EQ(reads, kMaxInput / 1024);
  room_ = 1024;
  console_.device_has_space();
  poll();
  EXPECT_EQ(reads, kMaxInput / 1024 + 1);
  room_ = 1 << 20;
  console_.device_has_space();
  poll();
  EXPECT_EQ(reads, 100);
  EXPECT_EQ(uart_.size(), 100U * 1024);
}

TEST_F(ConsoleTest, WritersOnOtherThreadsLoseNothing) {
  Recorder listener;
  console_.attach(listener);
  connect_uart(1 << 20);
  constexpr int kWrites = 2000;
  const auto work = boost::asio::make_work_guard(loop_);
  std::thread loop_thread([this] { loop_.run(); });
  std::vector<std::thread> writers;
  for (int i = 0; i < 4; ++i) {
    writers.emplace_back([this] {
      for (int j = 0; j < kWrites; ++j) {
        write("0123456789");
        if (j % 16 == 0) console_.device_has_space();
      }
    });
  }
  for (auto& writer : writers) writer.join();
  boost::asio::post(loop_, [this] {
    console_.flush();
    loop_.stop();
  });
  loop_thread.join();
  EXPECT_EQ(console_.output_bytes() + console_.dropped_bytes(), 4U * kWrites * 10);
  EXPECT_EQ(listener.text.size(), console_.output_bytes());
}

}  // namespace
}  // namespace vmm
