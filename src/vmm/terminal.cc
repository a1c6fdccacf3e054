#include "vmm/terminal.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
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

// An epoll instance that is readable once fd is ready for events; nothing where fd is always ready,
// as files and the null device are. Waiting for fd itself would set O_NONBLOCK, which belongs to
// the open file and so to every process that has it as its terminal.
Result<std::optional<Fd>> watch(int fd, std::uint32_t events) {
  Fd epoll(::epoll_create1(EPOLL_CLOEXEC));
  if (!epoll.valid()) return fail_errno(ErrorKind::kFailed, "epoll_create1 failed");
  epoll_event event{.events = events, .data = {}};
  if (::epoll_ctl(epoll.get(), EPOLL_CTL_ADD, fd, &event) == 0) {
    return std::optional(std::move(epoll));
  }
  if (errno == EPERM) return std::optional<Fd>();
  return fail_errno(ErrorKind::kFailed, "cannot wait for descriptor {}", fd);
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
  for (const int fatal :
       {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGTERM, SIGINT, SIGHUP, SIGQUIT}) {
    struct sigaction present {};
    // What the program handles or ignores by itself it does not die of.
    if (::sigaction(fatal, nullptr, &present) == 0 && present.sa_handler == SIG_DFL) {
      ::signal(fatal, restore_and_die);
    }
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

std::optional<TerminalSize> terminal_size() {
  for (const int fd : {STDIN_FILENO, STDOUT_FILENO}) {
    winsize size{};
    if (::ioctl(fd, TIOCGWINSZ, &size) == 0) return TerminalSize{size.ws_col, size.ws_row};
  }
  return std::nullopt;
}

Result<std::unique_ptr<FdOutput>> FdOutput::open(boost::asio::io_context& loop, int fd) {
  Fd copy(::fcntl(fd, F_DUPFD_CLOEXEC, 0));
  if (!copy.valid()) return fail_errno(ErrorKind::kFailed, "cannot duplicate descriptor {}", fd);
  TRY(auto writable, watch(copy.get(), EPOLLOUT));
  const auto chunk = ::isatty(fd) != 0 ? kTtyChunk : kPipeChunk;
  return std::unique_ptr<FdOutput>(new FdOutput(loop, std::move(copy), std::move(writable), chunk));
}

FdOutput::FdOutput(boost::asio::io_context& loop, Fd fd, std::optional<Fd> writable,
                   std::size_t chunk)
    : fd_(std::move(fd)), writable_(loop), always_ready_(!writable), chunk_(chunk) {
  if (writable) writable_.assign(writable->release());
}

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
  writable_.async_wait(boost::asio::posix::stream_descriptor::wait_read,
                       [this](const boost::system::error_code& error) {
                         if (error == boost::asio::error::operation_aborted) return;
                         waiting_ = false;
                         drain();
                         wait();
                       });
}

void FdOutput::drain() {
  std::size_t written = 0;
  while (written < queue_.size() && !broken_) {
    pollfd ready{fd_.get(), POLLOUT, 0};
    if (!always_ready_ && ::poll(&ready, 1, 0) != 1) break;
    const ssize_t n =
        ::write(fd_.get(), queue_.data() + written, std::min(chunk_, queue_.size() - written));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) broken_ = true;
    if (n > 0) written += static_cast<std::size_t>(n);
  }
  queue_.erase(queue_.begin(), queue_.begin() + static_cast<std::ptrdiff_t>(written));
}

boost::asio::awaitable<bool> read_terminal(std::function<void(std::span<const std::byte>)> on_input,
                                           std::function<boost::asio::awaitable<void>()> ready) {
  const auto executor = co_await boost::asio::this_coro::executor;
  auto readable = watch(STDIN_FILENO, EPOLLIN);
  if (!readable) co_return false;  // standard input is closed
  boost::asio::posix::stream_descriptor waiter(executor);
  if (readable.value()) waiter.assign(readable.value()->release());
  std::array<std::byte, 1024> buffer{};
  const bool tty = ::isatty(STDIN_FILENO) != 0;
  for (;;) {
    co_await ready();
    if (waiter.is_open()) {
      boost::system::error_code error;
      co_await waiter.async_wait(boost::asio::posix::stream_descriptor::wait_read,
                                 boost::asio::redirect_error(boost::asio::use_awaitable, error));
      if (error) co_return false;
    }
    const ssize_t n = ::read(STDIN_FILENO, buffer.data(), buffer.size());
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (n <= 0) co_return false;
    const auto bytes = std::span(buffer).first(static_cast<std::size_t>(n));
    const auto escape = tty ? std::ranges::find(bytes, kEscapeKey) : bytes.end();
    on_input({bytes.begin(), escape});
    if (escape != bytes.end()) co_return true;
  }
}

}  // namespace vmm
