#include "vmm/console_client.h"

#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <functional>
#include <utility>

#include "vmm/control_server.h"
#include "vmm/terminal.h"
#include "vmm_support.h"

namespace vmm {
namespace {

using namespace std::chrono_literals;

// More than any pipe or socket takes ahead.
constexpr std::size_t kMuch = 1 << 20;

std::string pattern(std::size_t size) {
  std::string text(size, '\0');
  for (std::size_t i = 0; i < size; ++i) text[i] = static_cast<char>('a' + i % 23);
  return text;
}

using Ends = std::pair<Fd, Fd>;

Ends make_pipe() {
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) std::abort();
  return {Fd(ends[0]), Fd(ends[1])};
}

Ends make_sockets() {
  std::array<int, 2> ends{};
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) != 0) std::abort();
  return {Fd(ends[0]), Fd(ends[1])};
}

// The next bytes, at most `size`; less at the end of the stream or after a long silence.
std::string take(const Fd& fd, std::size_t size) {
  std::string text;
  std::array<char, 65536> buffer;
  while (text.size() < size) {
    pollfd readable{fd.get(), POLLIN, 0};
    if (::poll(&readable, 1, 10'000) != 1) {
      ADD_FAILURE() << "nothing for 10 s";
      break;
    }
    const auto n = ::read(fd.get(), buffer.data(), std::min(buffer.size(), size - text.size()));
    if (n <= 0) break;
    text.append(buffer.data(), static_cast<std::size_t>(n));
  }
  return text;
}

void put(const Fd& fd, std::string_view text) {
  ASSERT_TRUE(write_all(fd, bytes_of(text), "test"));
}

// A process with a console client in it, with a terminal as standard input or whatever a test gives
// it, and the guest's end of the connection.
class ConsoleClientTest : public ::testing::Test {
 protected:
  ConsoleClientTest() {
    ::signal(SIGPIPE, SIG_IGN);
    int controller = -1;
    int terminal = -1;
    const winsize size{.ws_row = 24, .ws_col = 80, .ws_xpixel = 0, .ws_ypixel = 0};
    if (::openpty(&controller, &terminal, nullptr, nullptr, &size) != 0) std::abort();
    keyboard_ = Fd(controller);
    terminal_ = Fd(terminal);
  }
  ~ConsoleClientTest() override {
    if (child_ > 0) {
      ::kill(child_, SIGKILL);
      ::waitpid(child_, nullptr, 0);
    }
  }

  // Standard input is the terminal in raw mode where none is given; output comes to output_.
  void start(const Fd* input = nullptr, std::string_view first = {}) {
    auto [guest, client] = make_sockets();
    auto [reader, writer] = make_pipe();
    start_child(input, writer, [&] {
      guest = Fd();
      reader = Fd();
      const auto report = sizes_.second.get();
      const auto result = carry_console(client, first, [report](TerminalSize size) {
        const auto line = fmt::format("{}x{}\n", size.cols, size.rows);
        static_cast<void>(::write(report, line.data(), line.size()));
      });
      return result ? 0 : 1;
    });
    guest_ = std::move(guest);
    output_ = std::move(reader);
  }
  void start_child(const Fd* input, const Fd& output, const std::function<int()>& program) {
    child_ = ::fork();
    if (child_ != 0) return;
    ::alarm(30);
    ::dup2(input != nullptr ? input->get() : terminal_.get(), STDIN_FILENO);
    ::dup2(output.get(), STDOUT_FILENO);
    const auto raw = RawTerminal::enter();
    const int code = program();
    if (raw && input == nullptr) ::tcflush(STDIN_FILENO, TCIFLUSH);
    ::_exit(code);
  }
  // The exit code; 255 where it was a signal.
  int wait() {
    int status = 0;
    EXPECT_EQ(::waitpid(std::exchange(child_, -1), &status, 0) > 0, true);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 255;
  }
  void wait_until_raw() const {
    termios now{};
    for (int i = 0; i < 5000; ++i) {
      if (::tcgetattr(terminal_.get(), &now) == 0 && (now.c_lflag & ICANON) == 0) return;
      ::usleep(1000);
    }
    FAIL() << "the terminal is not raw";
  }
  // Types all of it, as far as the terminal is read; false where nobody reads it.
  bool type(std::string_view keys) const {
    ::fcntl(keyboard_.get(), F_SETFL, O_NONBLOCK);
    while (!keys.empty()) {
      pollfd writable{keyboard_.get(), POLLOUT, 0};
      if (::poll(&writable, 1, 10'000) != 1) return false;
      const auto n = ::write(keyboard_.get(), keys.data(), std::min<std::size_t>(keys.size(), 512));
      if (n > 0) keys.remove_prefix(static_cast<std::size_t>(n));
    }
    return true;
  }

  Fd keyboard_;
  Fd terminal_;
  Ends sizes_ = make_pipe();
  Fd guest_;
  Fd output_;
  pid_t child_ = -1;
};

TEST_F(ConsoleClientTest, CarriesBothWaysUntilTheEscapeKey) {
  start(nullptr, "login: ");
  wait_until_raw();
  EXPECT_EQ(take(output_, 7), "login: ") << "what came with the reply";
  ASSERT_TRUE(type("root\r"));
  EXPECT_EQ(take(guest_, 5), "root\r");
  put(guest_, "Password: ");
  EXPECT_EQ(take(output_, 10), "Password: ");
  ASSERT_TRUE(type("last\x1d"));
  EXPECT_EQ(wait(), 0);
  EXPECT_EQ(take(guest_, 100), "last") << "what was typed before the escape key";
}

TEST_F(ConsoleClientTest, PipedInputForAGuestThatReadsNothingHoldsUpNoOutput) {
  const TempDir dir;
  const auto text = pattern(kMuch);
  const auto input = open_file(dir.file("input", text).string(), O_RDONLY).value();
  start(&input);
  for (int i = 0; i < 3; ++i) {
    put(guest_, "still here");
    EXPECT_EQ(take(output_, 10), "still here");
    ::usleep(20'000);  // in which the client gets stuck, if it ever does
  }
  EXPECT_TRUE(take(guest_, text.size()) == text) << "nothing of it is lost";
  put(guest_, "bye");
  EXPECT_EQ(take(output_, 3), "bye") << "output goes on behind the end of the input";
  guest_ = Fd();
  EXPECT_EQ(wait(), 0);
}

TEST_F(ConsoleClientTest, TheEscapeKeyWorksWhateverTheGuestLeavesUnread) {
  start();
  wait_until_raw();
  ASSERT_TRUE(type(pattern(kMuch))) << "the terminal is read on";
  ASSERT_TRUE(type("\x1d"));
  EXPECT_EQ(wait(), 0);
}

TEST_F(ConsoleClientTest, OutputThatNobodyTakesHoldsUpNoInput) {
  start();
  wait_until_raw();
  ::fcntl(guest_.get(), F_SETFL, O_NONBLOCK);
  const auto text = pattern(kMuch);
  std::size_t sent = 0;
  for (int quiet = 0; quiet < 50 && sent < text.size();) {
    const auto n = ::write(guest_.get(), text.data() + sent, text.size() - sent);
    if (n > 0) sent += static_cast<std::size_t>(n);
    quiet = n > 0 ? 0 : quiet + 1;
    ::usleep(1000);
  }
  EXPECT_LT(sent, text.size()) << "the guest's process is held up";
  ASSERT_TRUE(type("q"));
  EXPECT_EQ(take(guest_, 1), "q");
  ASSERT_TRUE(type("\x1d"));
  EXPECT_EQ(wait(), 0);
}

TEST_F(ConsoleClientTest, TheLastOutputIsShownThoughInputIsLeft) {
  const TempDir dir;
  const auto input = open_file(dir.file("input", pattern(kMuch)).string(), O_RDONLY).value();
  start(&input);
  const auto text = pattern(50'000);
  put(guest_, text);
  EXPECT_EQ(take(output_, 1), "a");
  guest_ = Fd();
  EXPECT_TRUE(take(output_, kMuch) == text.substr(1));
  EXPECT_EQ(wait(), 0);
}

TEST_F(ConsoleClientTest, OnAPipeTheEscapeKeyIsInput) {
  auto [reader, writer] = make_pipe();
  start(&reader);
  put(writer,
      "a\x1d"
      "b");
  writer = Fd();
  EXPECT_EQ(take(guest_, 3),
            "a\x1d"
            "b");
  guest_ = Fd();
  EXPECT_EQ(wait(), 0);
}

TEST_F(ConsoleClientTest, AnOutputThatIsClosedIsAnError) {
  start();
  output_ = Fd();
  put(guest_, "x");
  EXPECT_EQ(wait(), 1);
}

TEST_F(ConsoleClientTest, TheSizeIsToldAtTheStartAndWhenItChanges) {
  start();
  EXPECT_EQ(take(sizes_.first, 6), "80x24\n");
  for (const std::uint16_t cols : std::array<std::uint16_t, 3>{100, 132, 101}) {
    const winsize size{.ws_row = 43, .ws_col = cols, .ws_xpixel = 0, .ws_ypixel = 0};
    ASSERT_EQ(::ioctl(terminal_.get(), TIOCSWINSZ, &size), 0);
    ASSERT_EQ(::kill(child_, SIGWINCH), 0);
    EXPECT_EQ(take(sizes_.first, 7), fmt::format("{}x43\n", cols));
  }
  guest_ = Fd();
  EXPECT_EQ(wait(), 0);
}

// The client against the control socket of a guest, the event loop of which the test turns.
class AttachConsoleTest : public ConsoleClientTest {
 protected:
  AttachConsoleTest() {
    std::filesystem::create_directory(dir_ / "vmm", error_);
    std::filesystem::permissions(dir_ / "vmm", std::filesystem::perms::owner_all, error_);
    virtio_.connect_device(
        [this](std::span<const std::byte> bytes) {
          hvc_ += text_of(bytes);
          return bytes.size();
        },
        [this](TerminalSize size) { sizes_told_.push_back(size); });
  }
  // A guest named "web" with its consoles, and a client for it.
  void start(bool has_virtio, bool serial) {
    server_ = ControlServer::listen(loop_, dir_ / "vmm" / "web.sock", serial_,
                                    has_virtio ? &virtio_ : nullptr)
                  .value();
    server_->add_method("guest.info", [](const auto&) -> Result<boost::json::value> {
      return boost::json::value{{"name", "web"}};
    });
    serial_.write(bytes_of("ttyAMA0"));
    virtio_.write(bytes_of("hvc0"));
    auto [reader, writer] = make_pipe();
    start_child(nullptr, writer, [&] {
      ::setenv("XDG_RUNTIME_DIR", dir_.path().c_str(), 1);
      return attach_console("", serial) ? 0 : 1;
    });
    output_ = std::move(reader);
  }
  void turn_until(const std::function<bool()>& done) {
    for (int i = 0; i < 1000 && !done(); ++i) loop_.run_for(10ms);
    EXPECT_TRUE(done());
  }
  // What the client has shown.
  std::string shown() {
    ::fcntl(output_.get(), F_SETFL, O_NONBLOCK);
    std::array<char, 100> buffer;
    const auto n = ::read(output_.get(), buffer.data(), buffer.size());
    if (n > 0) text_.append(buffer.data(), static_cast<std::size_t>(n));
    return text_;
  }

  std::error_code error_;
  TempDir dir_;
  boost::asio::io_context loop_;
  Console serial_{loop_};
  Console virtio_{loop_};
  std::unique_ptr<ControlServer> server_;
  std::string hvc_;
  std::vector<TerminalSize> sizes_told_;
  std::string text_;
};

TEST_F(AttachConsoleTest, TheVirtioConsoleGetsTheTerminalAndItsSize) {
  start(true, false);
  turn_until([this] { return shown() == "hvc0" && !sizes_told_.empty(); });
  EXPECT_EQ(sizes_told_[0], (TerminalSize{80, 24}));
  ASSERT_TRUE(type("ls\r"));
  turn_until([this] { return hvc_ == "ls\r"; });
  ASSERT_TRUE(type("\x1d"));
  EXPECT_EQ(wait(), 0);
}

TEST_F(AttachConsoleTest, TheSerialConsoleIsThereOnRequest) {
  start(true, true);
  turn_until([this] { return shown() == "ttyAMA0"; });
  EXPECT_TRUE(sizes_told_.empty());
  ASSERT_TRUE(type("\x1d"));
  EXPECT_EQ(wait(), 0);
}

TEST_F(AttachConsoleTest, AGuestWithoutAVirtioConsoleHasTheSerialOne) {
  start(false, false);
  turn_until([this] { return shown() == "ttyAMA0"; });
  ASSERT_TRUE(type("\x1d"));
  EXPECT_EQ(wait(), 0);
}

}  // namespace
}  // namespace vmm
