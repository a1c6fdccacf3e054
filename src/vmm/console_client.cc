#include "vmm/console_client.h"

#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <boost/json/serialize.hpp>

#include <algorithm>
#include <array>
#include <cerrno>
#include <optional>
#include <utility>
#include <vector>

#include "vmm/control_client.h"
#include "vmm/terminal.h"

namespace vmm {
namespace json = boost::json;

namespace {

constexpr ControlClient::Timeout kReplyTimeout{10'000};
// A guest's process that is slower than this with the size of a window has other worries.
constexpr ControlClient::Timeout kResizeTimeout{1'000};

constexpr std::size_t kReadSize = 4096;
constexpr std::size_t kMaxTypedAhead = 64 * 1024;
// What a descriptor takes without blocking when poll() calls it writable.
constexpr std::size_t kTtyChunk = 256;
constexpr std::size_t kPipeChunk = 4096;

// SIGWINCH as a descriptor; blocked while the object lives.
class WindowChanges {
 public:
  [[nodiscard]] static Result<WindowChanges> open() {
    sigset_t set;
    sigset_t before;
    ::sigemptyset(&set);
    ::sigaddset(&set, SIGWINCH);
    if (::sigprocmask(SIG_BLOCK, &set, &before) != 0) {
      return fail_errno(ErrorKind::kFailed, "cannot block SIGWINCH");
    }
    Fd fd(::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
    if (!fd.valid()) return fail_errno(ErrorKind::kFailed, "signalfd failed");
    return WindowChanges(std::move(fd), before);
  }
  WindowChanges(WindowChanges&& other) noexcept = default;
  WindowChanges& operator=(WindowChanges&&) = delete;
  ~WindowChanges() {
    if (fd_.valid()) ::sigprocmask(SIG_SETMASK, &before_, nullptr);
  }

  [[nodiscard]] int fd() const { return fd_.get(); }
  void take() const {
    signalfd_siginfo info{};
    static_cast<void>(::read(fd_.get(), &info, sizeof info));
  }

 private:
  WindowChanges(Fd fd, const sigset_t& before) : fd_(std::move(fd)), before_(before) {}

  Fd fd_;
  sigset_t before_;
};

// Bytes on their way from one side to the other.
class Pending {
 public:
  [[nodiscard]] bool empty() const { return start_ == bytes_.size(); }
  [[nodiscard]] std::size_t size() const { return bytes_.size() - start_; }
  void add(std::span<const std::byte> bytes) {
    bytes_.erase(bytes_.begin(), bytes_.begin() + static_cast<std::ptrdiff_t>(start_));
    start_ = 0;
    bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
  }
  [[nodiscard]] std::span<const std::byte> next(std::size_t most) const {
    return std::span(bytes_).subspan(start_, std::min(size(), most));
  }
  void remove(std::size_t count) { start_ += count; }

 private:
  std::vector<std::byte> bytes_;
  std::size_t start_ = 0;
};

// The four directions of a console's bytes, none of which waits for another.
class Carrier {
 public:
  Carrier(const Fd& socket, std::string_view first)
      : socket_(socket),
        tty_(::isatty(STDIN_FILENO) != 0),
        chunk_(::isatty(STDOUT_FILENO) != 0 ? kTtyChunk : kPipeChunk) {
    to_output_.add(std::as_bytes(std::span(first)));
  }

  // Waits until something can be done, and does it; false at the end.
  [[nodiscard]] Result<bool> step(const WindowChanges& changes,
                                  const std::function<void(TerminalSize)>& on_size) {
    const bool want_output = to_output_.empty();
    const bool want_input = !input_ended_ && (tty_ || to_socket_.empty());
    const int wanted = (want_output ? POLLIN : 0) | (to_socket_.empty() ? 0 : POLLOUT);
    std::array<pollfd, 4> fds{{
        // A socket whose other end has gone is always ready: ask only where it is used.
        {wanted != 0 ? socket_.get() : -1, static_cast<short>(wanted), 0},
        {want_input ? STDIN_FILENO : -1, POLLIN, 0},
        {want_output ? -1 : STDOUT_FILENO, POLLOUT, 0},
        {changes.fd(), POLLIN, 0},
    }};
    if (::poll(fds.data(), fds.size(), -1) < 0) {
      if (errno == EINTR) return true;
      return fail_errno(ErrorKind::kFailed, "cannot wait for the console");
    }
    if (fds[2].revents != 0) {
      TRY(write_output());
    }
    if (fds[3].revents != 0) {
      changes.take();
      if (const auto size = terminal_size()) on_size(*size);
    }
    if (fds[0].revents != 0) {
      if (!to_socket_.empty()) write_socket();
      if (want_output && !read_socket()) return false;
    }
    if (fds[1].revents == 0 || !read_input()) return true;
    write_socket();  // what was typed before the escape key
    return false;
  }

 private:
  [[nodiscard]] Result<> write_output() {
    const auto bytes = to_output_.next(chunk_);
    const ssize_t n = ::write(STDOUT_FILENO, bytes.data(), bytes.size());
    if (n < 0 && errno != EINTR && errno != EAGAIN) {
      return fail_errno(ErrorKind::kFailed, "cannot write to standard output");
    }
    if (n > 0) to_output_.remove(static_cast<std::size_t>(n));
    return success();
  }

  void write_socket() {
    const auto bytes = to_socket_.next(kMaxTypedAhead);
    const ssize_t n =
        ::send(socket_.get(), bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n > 0) to_socket_.remove(static_cast<std::size_t>(n));
    if (n >= 0 || errno == EINTR || errno == EAGAIN) return;
    // Nobody takes input any more; its last output is there to be read.
    to_socket_.remove(to_socket_.size());
    input_ended_ = true;
  }
  // False when the guest has gone.
  [[nodiscard]] bool read_socket() {
    std::array<std::byte, kReadSize> buffer;
    const ssize_t n = ::recv(socket_.get(), buffer.data(), buffer.size(), MSG_DONTWAIT);
    if (n > 0) to_output_.add(std::span(buffer).first(static_cast<std::size_t>(n)));
    return n > 0 || (n < 0 && (errno == EINTR || errno == EAGAIN));
  }

  // True where the escape key was pressed.
  [[nodiscard]] bool read_input() {
    std::array<std::byte, kReadSize> buffer;
    const ssize_t n = ::read(STDIN_FILENO, buffer.data(), buffer.size());
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) return false;
    if (n <= 0) {
      input_ended_ = true;  // output goes on until the guest's end
      return false;
    }
    const auto bytes = std::span(buffer).first(static_cast<std::size_t>(n));
    const auto escape = tty_ ? std::ranges::find(bytes, kEscapeKey) : bytes.end();
    const std::span typed(bytes.begin(), escape);
    if (to_socket_.size() + typed.size() <= kMaxTypedAhead) to_socket_.add(typed);
    return escape != bytes.end();
  }

  const Fd& socket_;
  const bool tty_;
  const std::size_t chunk_;  // of output
  bool input_ended_ = false;
  Pending to_output_;
  Pending to_socket_;
};

// Tells the guest's process the size of the terminal, over a connection of its own.
class SizeTeller {
 public:
  explicit SizeTeller(std::optional<ControlClient> client) : client_(std::move(client)) {}

  void tell(TerminalSize size) {
    if (!client_) return;
    const auto told =
        client_->call("console.resize", {{"cols", size.cols}, {"rows", size.rows}}, kResizeTimeout);
    // Without sizes the console is as good as a serial one.
    if (!told) client_.reset();
  }

 private:
  std::optional<ControlClient> client_;
};

}  // namespace

Result<> carry_console(const Fd& socket, std::string_view first,
                       const std::function<void(TerminalSize)>& on_size) {
  TRY(const auto changes, WindowChanges::open());
  if (const auto size = terminal_size()) on_size(*size);
  Carrier carrier(socket, first);
  for (;;) {
    TRY(const bool more, carrier.step(changes, on_size));
    if (!more) return success();
  }
}

Result<> attach_console(const std::string& name, bool serial) {
  TRY(auto client, ControlClient::connect(name));
  // The same guest for the second connection, whatever starts or ends in between.
  TRY(const auto info, client.call("guest.info", {}, kReplyTimeout));
  json::object params;
  if (serial) params["device"] = "serial";
  TRY(const auto reply, client.call("console.attach", params, kReplyTimeout));
  std::optional<ControlClient> second;
  const auto* guest = info.is_object() ? info.get_object().if_contains("name") : nullptr;
  const auto* device = reply.is_object() ? reply.get_object().if_contains("device") : nullptr;
  if (guest != nullptr && guest->is_string() && device != nullptr && *device == "virtio") {
    auto connected = ControlClient::connect(std::string(guest->get_string()));
    if (connected) second = std::move(connected).value();
  }
  SizeTeller teller(std::move(second));
  TRY(const auto terminal, RawTerminal::enter());
  return carry_console(client.fd(), client.received(),
                       [&teller](TerminalSize size) { teller.tell(size); });
}

}  // namespace vmm
