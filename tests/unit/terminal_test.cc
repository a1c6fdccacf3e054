#include "vmm/terminal.h"

#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <sys/wait.h>
#include <termios.h>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>

#include <array>
#include <functional>
#include <thread>

#include "vmm_support.h"

namespace vmm {
namespace {

constexpr std::size_t kMaxQueue = 1 << 20;

struct Pipe {
  Pipe() {
    std::array<int, 2> ends{};
    if (::pipe2(ends.data(), O_CLOEXEC) != 0) std::abort();
    read_end = Fd(ends[0]);
    write_end = Fd(ends[1]);
  }
  // What is in it now.
  [[nodiscard]] std::string take() const {
    ::fcntl(read_end.get(), F_SETFL, O_NONBLOCK);
    std::string text;
    std::array<char, 65536> buffer;
    for (;;) {
      const auto n = ::read(read_end.get(), buffer.data(), buffer.size());
      if (n <= 0) return text;
      text.append(buffer.data(), static_cast<std::size_t>(n));
    }
  }
  Fd read_end;
  Fd write_end;
};

class FdOutputTest : public ::testing::Test {
 protected:
  FdOutputTest() { ::signal(SIGPIPE, SIG_IGN); }

  std::unique_ptr<FdOutput> open(int fd) {
    auto output = FdOutput::open(loop_, fd);
    if (!output) {
      ADD_FAILURE() << output.error().message();
      std::abort();
    }
    return std::move(output).value();
  }
  void poll() {
    loop_.restart();
    loop_.poll();
  }

  boost::asio::io_context loop_;
};

std::string pattern(std::size_t size) {
  std::string text(size, '\0');
  for (std::size_t i = 0; i < size; ++i) text[i] = static_cast<char>('a' + i % 23);
  return text;
}

TEST_F(FdOutputTest, APipeGetsEverythingInOrder) {
  const Pipe pipe;
  const auto output = open(pipe.write_end.get());
  output->console_output(bytes_of("one "));
  output->console_output(bytes_of("two"));
  poll();
  EXPECT_EQ(pipe.take(), "one two");
}

TEST_F(FdOutputTest, AReaderThatStopsHoldsUpNobodyAndLosesNothingSmall) {
  const Pipe pipe;
  const auto output = open(pipe.write_end.get());
  const auto text = pattern(500'000);
  for (std::size_t at = 0; at < text.size(); at += 10'000) {
    output->console_output(bytes_of(text).subspan(at, 10'000));
    poll();  // would hang here if a write blocked
  }
  output->drain();
  std::string received;
  for (int i = 0; i < 1000 && received.size() < text.size(); ++i) {
    received += pipe.take();
    poll();
  }
  EXPECT_TRUE(received == text);
}

TEST_F(FdOutputTest, WhatIsBeyondTheQueueIsDropped) {
  const Pipe pipe;
  const auto output = open(pipe.write_end.get());
  const auto text = pattern(2 * kMaxQueue);
  output->console_output(bytes_of(text));
  std::string received;
  for (int i = 0; i < 1000 && received.size() < kMaxQueue; ++i) {
    poll();
    received += pipe.take();
  }
  EXPECT_TRUE(received == text.substr(0, kMaxQueue));
  output->console_output(bytes_of("and on"));
  poll();
  EXPECT_EQ(pipe.take(), "and on");
}

TEST_F(FdOutputTest, AReaderThatIsGoneIsNoHarm) {
  Pipe pipe;
  const auto output = open(pipe.write_end.get());
  pipe.read_end = Fd();
  for (int i = 0; i < 3; ++i) {
    output->console_output(bytes_of("nobody reads this"));
    poll();
    output->drain();
  }
}

TEST_F(FdOutputTest, RegularFilesAreWrittenAtOnce) {
  const TempDir dir;
  const auto file = open_file((dir / "log").string(), O_WRONLY | O_CREAT).value();
  const auto output = open(file.get());
  output->console_output(bytes_of("first "));
  EXPECT_EQ(contents_of(dir / "log"), "first ");
  const auto text = pattern(3 * kMaxQueue / 2);
  output->console_output(bytes_of(text).first(kMaxQueue));
  output->console_output(bytes_of(text).subspan(kMaxQueue));
  EXPECT_TRUE(contents_of(dir / "log") == "first " + text);
}

TEST_F(FdOutputTest, TheNullDeviceTakesEverything) {
  const auto null = open_file("/dev/null", O_WRONLY).value();
  const auto output = open(null.get());
  const auto text = pattern(kMaxQueue);
  for (int i = 0; i < 2; ++i) output->console_output(bytes_of(text));
  poll();
}

TEST_F(FdOutputTest, TheDescriptorStaysInBlockingMode) {
  const Pipe pipe;
  const auto output = open(pipe.write_end.get());
  output->console_output(bytes_of("x"));
  poll();
  EXPECT_EQ(::fcntl(pipe.write_end.get(), F_GETFL) & O_NONBLOCK, 0);
}

TEST_F(FdOutputTest, AnOutputThatGoesWhileItWaitsLeavesNothingBehind) {
  const Pipe pipe;
  auto output = open(pipe.write_end.get());
  output->console_output(bytes_of(pattern(200'000)));
  poll();
  output.reset();
  poll();
  EXPECT_TRUE(pipe.take().size() <= 65536);
}

TEST_F(FdOutputTest, AClosedDescriptorIsAnError) {
  expect_error(FdOutput::open(loop_, -1), ErrorKind::kFailed, "descriptor -1");
}

// A terminal, and a process whose standard input it is.
class TerminalTest : public ::testing::Test {
 protected:
  TerminalTest() {
    int controller = -1;
    int terminal = -1;
    if (::openpty(&controller, &terminal, nullptr, nullptr, nullptr) != 0) std::abort();
    controller_ = Fd(controller);
    terminal_ = Fd(terminal);
    before_ = settings();
  }

  [[nodiscard]] termios settings() const {
    termios now{};
    EXPECT_EQ(::tcgetattr(terminal_.get(), &now), 0);
    return now;
  }
  [[nodiscard]] bool is_raw() const {
    const auto now = settings();
    return (now.c_lflag & (ICANON | ECHO | ISIG | IEXTEN)) == 0 &&
           (now.c_iflag & (ICRNL | IXON)) == 0;
  }
  [[nodiscard]] bool is_restored() const {
    const auto now = settings();
    return now.c_iflag == before_.c_iflag && now.c_oflag == before_.c_oflag &&
           now.c_cflag == before_.c_cflag && now.c_lflag == before_.c_lflag &&
           std::equal(std::begin(now.c_cc), std::end(now.c_cc), std::begin(before_.c_cc));
  }
  // Runs what a process does with its terminal; its result is the exit code.
  void start(const std::function<int()>& program) {
    child_ = ::fork();
    if (child_ != 0) return;
    ::alarm(20);
    ::dup2(terminal_.get(), STDIN_FILENO);
    ::_exit(program());
  }
  // Status of waitpid().
  int wait() {
    int status = 0;
    EXPECT_EQ(::waitpid(child_, &status, 0), child_);
    return status;
  }
  void wait_until_raw() {
    for (int i = 0; i < 5000 && !is_raw(); ++i) ::usleep(1000);
    ASSERT_TRUE(is_raw());
  }
  void type(std::string_view keys) const {
    ASSERT_EQ(::write(controller_.get(), keys.data(), keys.size()),
              static_cast<ssize_t>(keys.size()));
  }

  Fd controller_;
  Fd terminal_;
  termios before_{};
  pid_t child_ = -1;
};

TEST_F(TerminalTest, IsRawWhileTheObjectLives) {
  start([] {
    char key = 0;
    {
      const auto raw = RawTerminal::enter();
      if (!raw) return 1;
      if (::read(STDIN_FILENO, &key, 1) != 1) return 2;
    }
    return ::read(STDIN_FILENO, &key, 1) == 1 ? 0 : 3;
  });
  wait_until_raw();
  EXPECT_NE(settings().c_oflag & OPOST, 0U) << "lines of our own messages stay lines";
  type("\x03");  // no signal while raw
  for (int i = 0; i < 5000 && !is_restored(); ++i) ::usleep(1000);
  EXPECT_TRUE(is_restored());
  type("x\n");
  const int status = wait();
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
}

TEST_F(TerminalTest, IsRestoredOnceThoughTheObjectMoves) {
  start([] {
    auto raw = RawTerminal::enter();
    if (!raw) return 1;
    const RawTerminal moved = std::move(raw).value();
    termios now{};
    ::tcgetattr(STDIN_FILENO, &now);
    return (now.c_lflag & ICANON) == 0 ? 0 : 2;
  });
  const int status = wait();
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
  // _exit() runs no destructors of others, but the object was gone before.
  EXPECT_TRUE(is_restored());
}

TEST_F(TerminalTest, IsRestoredWhenTheProcessDiesOfASignal) {
  for (const int signal_number : {SIGABRT, SIGSEGV, SIGFPE, SIGTERM, SIGINT, SIGHUP, SIGQUIT}) {
    start([signal_number] {
      ::signal(signal_number, SIG_DFL);  // whatever handlers the test program has
      const auto raw = RawTerminal::enter();
      if (!raw) return 1;
      for (;;) ::pause();
    });
    wait_until_raw();
    ASSERT_EQ(::kill(child_, signal_number), 0);
    const int status = wait();
    EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == signal_number)
        << "signal " << signal_number << ", status " << status;
    EXPECT_TRUE(is_restored()) << "signal " << signal_number;
  }
}

TEST_F(TerminalTest, HandlersAndIgnoredSignalsOfTheProgramStay) {
  start([] {
    ::signal(SIGTERM, [](int) {});
    ::signal(SIGINT, SIG_IGN);
    const auto raw = RawTerminal::enter();
    ::raise(SIGTERM);
    ::raise(SIGINT);
    return raw ? 0 : 1;
  });
  const int status = wait();
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
}

TEST_F(TerminalTest, StandardInputThatIsNoTerminalIsLeftAlone) {
  start([] {
    const auto null = open_file("/dev/null", O_RDONLY);
    ::dup2(null.value().get(), STDIN_FILENO);
    const auto raw = RawTerminal::enter();
    return raw ? 0 : 1;
  });
  const int status = wait();
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
  EXPECT_TRUE(is_restored());
}

// Reads standard input until the end; the exit code says what ended it (10 escape key, 11 the end
// of input), and `report` gets the bytes.
int read_all(const Fd& report) {
  boost::asio::io_context loop;
  int code = 1;
  boost::asio::co_spawn(
      loop,
      [&]() -> boost::asio::awaitable<void> {
        const bool escaped = co_await read_terminal(
            [&report](std::span<const std::byte> bytes) {
              static_cast<void>(write_all(report, bytes, "report"));
            },
            []() -> boost::asio::awaitable<void> { co_return; });
        code = escaped ? 10 : 11;
      },
      boost::asio::detached);
  loop.run();
  return code;
}

TEST_F(TerminalTest, TheEscapeKeyEndsReadingOnATerminal) {
  const Pipe report;
  start([&report] {
    const auto raw = RawTerminal::enter();
    return raw ? read_all(report.write_end) : 1;
  });
  wait_until_raw();
  type("ls\r\x03");
  type("\x04x\x1dy");
  EXPECT_EQ(WEXITSTATUS(wait()), 10);
  EXPECT_EQ(report.take(), "ls\r\x03\x04x");
  EXPECT_EQ(::fcntl(terminal_.get(), F_GETFL) & O_NONBLOCK, 0) << "others have this terminal, too";
}

TEST_F(TerminalTest, OnAPipeEveryByteIsInputUntilItsEnd) {
  const Pipe input;
  const Pipe report;
  const std::string_view text("a\x1d\0b", 4);
  ASSERT_EQ(::write(input.write_end.get(), text.data(), text.size()), 4);
  start([&] {
    ::dup2(input.read_end.get(), STDIN_FILENO);
    ::close(input.write_end.get());
    return read_all(report.write_end);
  });
  const_cast<Pipe&>(input).write_end = Fd();
  EXPECT_EQ(WEXITSTATUS(wait()), 11);
  EXPECT_EQ(report.take(), text);
}

TEST_F(TerminalTest, FilesAndTheNullDeviceAreReadToTheirEnd) {
  const TempDir dir;
  for (const std::string& path :
       {dir.file("input", "from a file").string(), std::string("/dev/null")}) {
    const Pipe report;
    start([&] {
      const auto file = open_file(path, O_RDONLY);
      ::dup2(file.value().get(), STDIN_FILENO);
      return read_all(report.write_end);
    });
    EXPECT_EQ(WEXITSTATUS(wait()), 11) << path;
    EXPECT_EQ(report.take(), path == "/dev/null" ? "" : "from a file");
  }
}

TEST_F(TerminalTest, OutputToATerminalThatNobodyReadsDoesNotBlock) {
  boost::asio::io_context loop;
  const auto output = FdOutput::open(loop, terminal_.get());
  ASSERT_TRUE(output) << output.error().message();
  output.value()->console_output(bytes_of(pattern(200'000)));
  loop.poll();
  output.value()->drain();
  std::array<char, 4> start{};
  ASSERT_EQ(::read(controller_.get(), start.data(), start.size()), 4);
  EXPECT_EQ(std::string(start.data(), 4), "abcd");
}

}  // namespace
}  // namespace vmm
