#include "migration/tcp_socket.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <cstdlib>
#include <utility>

namespace vmm::migration {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

// Pages in a pipe at once: what an unprivileged user may have by default.
constexpr int kPipeBytes = 1 << 20;

// A kernel that does not know an option, or a socket that is gone already, only makes a cut link
// be noticed later: the next operation says what is wrong.
void set_option(const Fd& fd, int level, int name, int value) {
  (void)::setsockopt(fd.get(), level, name, &value, sizeof value);
}

int whole_seconds(milliseconds time) {
  return static_cast<int>(std::clamp<milliseconds::rep>(time.count() / 1000, 1, 3600));
}

msghdr message_of(std::span<const iovec> parts) {
  msghdr message{};
  message.msg_iov = const_cast<iovec*>(parts.data());
  message.msg_iovlen = std::min<std::size_t>(parts.size(), IOV_MAX);
  return message;
}

}  // namespace

void IovCursor::assign(std::span<const iovec> parts) {
  parts_.clear();
  at_ = 0;
  bytes_ = 0;
  for (const auto& part : parts) {
    if (part.iov_len == 0) continue;
    parts_.push_back(part);
    bytes_ += part.iov_len;
  }
}

void IovCursor::first(std::size_t count, std::vector<iovec>& parts) const {
  parts.clear();
  for (std::size_t i = at_; count > 0; ++i) {
    auto part = parts_[i];
    part.iov_len = std::min(part.iov_len, count);
    count -= part.iov_len;
    parts.push_back(part);
  }
}

void IovCursor::advance(std::size_t count) {
  if (count > bytes_) std::abort();
  bytes_ -= count;
  while (at_ < parts_.size() && count >= parts_[at_].iov_len) count -= parts_[at_++].iov_len;
  if (count == 0) return;
  parts_[at_].iov_base = static_cast<std::byte*>(parts_[at_].iov_base) + count;
  parts_[at_].iov_len -= count;
}

TcpSocket::TcpSocket(Fd fd, std::string peer, milliseconds timeout)
    : fd_(std::move(fd)), peer_(std::move(peer)), timeout_(timeout) {
  set_option(fd_, IPPROTO_TCP, TCP_NODELAY, 1);
  set_option(fd_, SOL_SOCKET, SO_KEEPALIVE, 1);
  set_option(fd_, IPPROTO_TCP, TCP_KEEPCNT, 3);
  // splice(2) has no flag for it.
  (void)::fcntl(fd_.get(), F_SETFL, ::fcntl(fd_.get(), F_GETFL) | O_NONBLOCK);
  set_timeout(timeout);
}

void TcpSocket::set_timeout(milliseconds timeout) {
  timeout_ = timeout;
  if (timeout == kNoTimeout) return;
  const auto bounded = std::clamp<milliseconds::rep>(timeout.count(), 1, INT_MAX);
  set_option(fd_, IPPROTO_TCP, TCP_USER_TIMEOUT, static_cast<int>(bounded));
  set_option(fd_, IPPROTO_TCP, TCP_KEEPIDLE, whole_seconds(timeout / 2));
  set_option(fd_, IPPROTO_TCP, TCP_KEEPINTVL, whole_seconds(timeout / 6));
}

Result<std::size_t> TcpSocket::send_some(std::span<const iovec> parts, bool more) {
  const msghdr message = message_of(parts);
  const int flags = MSG_NOSIGNAL | MSG_DONTWAIT | (more ? MSG_MORE : 0);
  for (;;) {
    const ssize_t sent = ::sendmsg(fd_.get(), &message, flags);
    if (sent > 0) return static_cast<std::size_t>(sent);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0 && errno != EAGAIN) return fail(lost(errno));
    TRY(wait(POLLOUT, timeout_));
  }
}

Result<> TcpSocket::send_referred(iovec part, bool more) {
  if (!pipe_in_.valid()) {
    TRY(make_pipe());
  }
  while (part.iov_len > 0) {
    const ssize_t taken = ::vmsplice(pipe_in_.get(), &part, 1, SPLICE_F_NONBLOCK);
    if (taken < 0 && errno == EINTR) continue;
    if (taken <= 0) return fail_errno(ErrorKind::kHost, "cannot send memory by reference");
    const auto bytes = static_cast<std::size_t>(taken);
    part.iov_base = static_cast<std::byte*>(part.iov_base) + bytes;
    part.iov_len -= bytes;
    TRY(splice_pipe(bytes, more || part.iov_len > 0));
  }
  return success();
}

Result<> TcpSocket::make_pipe() {
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) {
    return fail_errno(ErrorKind::kHost, "cannot make a pipe to send memory by");
  }
  pipe_out_ = Fd(ends[0]);
  pipe_in_ = Fd(ends[1]);
  // A smaller one only takes more calls.
  (void)::fcntl(pipe_in_.get(), F_SETPIPE_SZ, kPipeBytes);
  return success();
}

Result<> TcpSocket::splice_pipe(std::size_t bytes, bool more) {
  const unsigned flags = SPLICE_F_NONBLOCK | (more ? SPLICE_F_MORE : 0);
  while (bytes > 0) {
    const ssize_t sent = ::splice(pipe_out_.get(), nullptr, fd_.get(), nullptr, bytes, flags);
    if (sent > 0) {
      bytes -= static_cast<std::size_t>(sent);
    } else if (sent == 0) {
      return fail(lost(0));
    } else if (errno == EAGAIN) {
      TRY(wait(POLLOUT, timeout_));
    } else if (errno != EINTR) {
      return fail(lost(errno));
    }
  }
  return success();
}

Result<std::size_t> TcpSocket::receive_some(std::span<const iovec> parts) {
  for (;;) {
    TRY(const auto received, try_receive(parts));
    if (received > 0) return received;
    TRY(wait_to_receive(timeout_));
  }
}

Result<std::size_t> TcpSocket::try_receive(std::span<const iovec> parts) {
  msghdr message = message_of(parts);
  for (;;) {
    const ssize_t received = ::recvmsg(fd_.get(), &message, MSG_DONTWAIT);
    if (received > 0) return static_cast<std::size_t>(received);
    if (received == 0) return fail(lost(0));
    if (errno == EINTR) continue;
    if (errno != EAGAIN) return fail(lost(errno));
    return std::size_t{0};
  }
}

Result<> TcpSocket::wait_to_receive(milliseconds timeout) {
  return wait(POLLIN, timeout);
}

void TcpSocket::interrupt() {
  interrupted_ = true;
  // Also wakes whoever polls.
  (void)::shutdown(fd_.get(), SHUT_RDWR);
}

Result<> TcpSocket::wait(short events, milliseconds timeout) {
  const auto begin = std::chrono::steady_clock::now();
  for (;;) {
    int left = -1;
    if (timeout != kNoTimeout) {
      const auto spent = std::chrono::floor<milliseconds>(std::chrono::steady_clock::now() - begin);
      left = static_cast<int>(std::clamp<milliseconds::rep>((timeout - spent).count(), 0, INT_MAX));
    }
    pollfd entry{.fd = fd_.get(), .events = events, .revents = 0};
    const int ready = ::poll(&entry, 1, left);
    // What went wrong, if anything, is what the next send or receive fails with.
    if (ready > 0) return success();
    if (ready < 0 && errno != EINTR) return fail(lost(errno));
    if (ready == 0) {
      return fail(ErrorKind::kMigration, "{} {} for {:g} s", peer_,
                  events == POLLOUT ? "took no data" : "sent nothing",
                  std::chrono::duration<double>(timeout).count());
    }
  }
}

Error TcpSocket::lost(int system_errno) const {
  if (interrupted_) {
    return make_error(ErrorKind::kMigration, "the connection to {} was interrupted", peer_);
  }
  if (system_errno == 0) {
    return make_error(ErrorKind::kMigration, "{} closed the connection", peer_);
  }
  return Error(ErrorKind::kMigration, fmt::format("lost the connection to {}", peer_),
               system_errno);
}

}  // namespace vmm::migration
