#include "vmm/terminal.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

#include <boost/asio/redirect_error.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <algorithm>
#include <array>
#include <cerrno>

namespace vmm {
namespace {

constexpr std::size_t kMaxQueue = 1 << 20;

// The settings to go back to; read by a signal handler, so plain globals.
termios saved_settings;
volatile sig_atomic_t settings_saved = 0;

void restore_settings() {
  if (settings_saved != 0) {
    settings_saved = 0;
    static_cast<void>(::tcsetattr(STDIN_FILENO, TCSANOW, &saved_settings));
  }
}

void restore_and_die(int signal_number) {
  restore_settings();
  ::signal(signal_number, SIG_DFL);
  ::raise(signal_number);
}

// A tty takes this much when poll() calls it writable; a pipe takes PIPE_BUF.
constexpr std::size_t kTtyChunk = 256;
constexpr std::size_t kPipeChunk = 4096;

}  // namespace

Result<RawTerminal> RawTerminal::enter() {
  if (::isatty(STDIN_FILENO) == 0) return RawTerminal(false);
  if (::tcgetattr(STDIN_FILENO, &saved_settings) != 0) {
    return fail_errno(ErrorKind::kFailed, "cannot read the terminal's settings");
  }
  settings_saved = 1;
  for (const int fatal : {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT}) {
    ::signal(fatal, restore_and_die);
  }
  termios raw = saved_settings;
  ::cfmakeraw(&raw);
  raw.c_oflag |= OPOST;  // our own messages end lines with \n alone
  if (::tcsetattr(STDIN_FILENO, TCSANOW, &raw) != 0) {
    return fail_errno(ErrorKind::kFailed, "cannot set the terminal to raw mode");
  }
  return RawTerminal(true);
}

RawTerminal::~RawTerminal() {
  if (active_) restore_settings();
}

Result<std::unique_ptr<FdOutput>> FdOutput::open(boost::asio::io_context& loop, int fd) {
  Fd copy(::fcntl(fd, F_DUPFD_CLOEXEC, 0));
  if (!copy.valid()) return fail_errno(ErrorKind::kFailed, "cannot duplicate descriptor {}", fd);
  struct stat status {};
  if (::fstat(fd, &status) != 0) {
    return fail_errno(ErrorKind::kFailed, "cannot stat descriptor {}", fd);
  }
  const bool tty = ::isatty(fd) != 0;
  // The null device and regular files cannot be waited for and never block.
  const bool always_ready = S_ISREG(status.st_mode) || (S_ISCHR(status.st_mode) && !tty);
  return std::unique_ptr<FdOutput>(
      new FdOutput(loop, std::move(copy), always_ready, tty ? kTtyChunk : kPipeChunk));
}

FdOutput::FdOutput(boost::asio::io_context& loop, Fd fd, bool always_ready, std::size_t chunk)
    : stream_(loop, fd.release()), always_ready_(always_ready), chunk_(chunk) {}

void FdOutput::console_output(std::span<const std::byte> bytes) {
  if (broken_) return;
  const auto room = std::min(bytes.size(), kMaxQueue - queue_.size());
  queue_.insert(queue_.end(), bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(room));
  if (always_ready_) {
    drain();
  } else {
    wait();
  }
}

void FdOutput::wait() {
  if (waiting_ || queue_.empty() || broken_) return;
  waiting_ = true;
  // Waiting leaves the descriptor in blocking mode: its flags are shared with other processes.
  stream_.async_wait(boost::asio::posix::stream_descriptor::wait_write,
                     [this](const boost::system::error_code& error) {
                       if (error == boost::asio::error::operation_aborted) return;
                       waiting_ = false;
                       drain();
                       wait();
                     });
}

void FdOutput::drain() {
  while (!queue_.empty() && !broken_) {
    pollfd ready{stream_.native_handle(), POLLOUT, 0};
    if (!always_ready_ && ::poll(&ready, 1, 0) != 1) return;
    const ssize_t n =
        ::write(stream_.native_handle(), queue_.data(), std::min(chunk_, queue_.size()));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) broken_ = true;
    if (n > 0) queue_.erase(queue_.begin(), queue_.begin() + n);
  }
}

boost::asio::awaitable<bool> read_terminal(std::function<void(std::span<const std::byte>)> on_input,
                                           std::function<boost::asio::awaitable<void>()> ready) {
  const auto executor = co_await boost::asio::this_coro::executor;
  Fd copy(::fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 0));
  if (!copy.valid()) co_return false;  // standard input is closed
  boost::asio::posix::stream_descriptor stream(executor, copy.release());
  boost::system::error_code error;
  std::array<std::byte, 1024> buffer{};
  const bool tty = ::isatty(STDIN_FILENO) != 0;
  for (;;) {
    co_await ready();
    co_await stream.async_wait(boost::asio::posix::stream_descriptor::wait_read,
                               boost::asio::redirect_error(boost::asio::use_awaitable, error));
    // A regular file cannot be waited for, and need not be.
    if (error && error != boost::asio::error::operation_not_supported) co_return false;
    const ssize_t n = ::read(stream.native_handle(), buffer.data(), buffer.size());
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (n <= 0) co_return false;
    const auto bytes = std::span(buffer).first(static_cast<std::size_t>(n));
    const auto escape = tty ? std::ranges::find(bytes, kEscapeKey) : bytes.end();
    on_input({bytes.begin(), escape});
    if (escape != bytes.end()) co_return true;
  }
}

}  // namespace vmm
