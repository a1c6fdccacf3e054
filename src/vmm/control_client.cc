#include "vmm/control_client.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <vector>

#include "vmm/json_rpc.h"
#include "vmm/runtime_dir.h"

namespace vmm {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t kMaxReply = 16 << 20;

// False after the deadline, where there is one.
Result<bool> wait_readable(const Fd& fd, std::optional<Clock::time_point> deadline) {
  pollfd readable{fd.get(), POLLIN, 0};
  int ready = 0;
  do {
    int wait = -1;
    if (deadline) {
      const auto left = std::chrono::ceil<std::chrono::milliseconds>(*deadline - Clock::now());
      wait = static_cast<int>(std::clamp<std::int64_t>(left.count(), 0, 1 << 30));
    }
    // A signal that does not end the process is the business of who handles it: the reply to what
    // was asked has to be read all the same.
    ready = ::poll(&readable, 1, wait);
  } while (ready < 0 && errno == EINTR);
  if (ready < 0) return fail_errno(ErrorKind::kFailed, "cannot wait for the guest's process");
  return ready > 0;
}

}  // namespace

Result<ControlClient> ControlClient::connect_path(const std::filesystem::path& socket_path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string path = socket_path.string();
  if (path.size() >= sizeof address.sun_path) {
    return fail(ErrorKind::kUsage, "{} is too long for a socket's path", path);
  }
  std::memcpy(address.sun_path, path.c_str(), path.size());
  Fd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return fail_errno(ErrorKind::kFailed, "cannot make a socket");
  if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    if (errno == ENOENT || errno == ECONNREFUSED) {
      return fail(ErrorKind::kNoSuchGuest, "no guest named {} is running",
                  socket_path.stem().string());
    }
    return fail_errno(ErrorKind::kFailed, "cannot connect to {}", path);
  }
  return ControlClient(std::move(fd));
}

Result<ControlClient> ControlClient::connect(const std::string& name) {
  TRY(const auto dir, runtime_dir());
  if (!name.empty()) return connect_path(dir / (name + ".sock"));

  TRY(const auto names, guest_names(dir));
  std::optional<ControlClient> found;
  std::vector<std::string> live;
  for (const auto& candidate : names) {
    auto client = connect_path(dir / (candidate + ".sock"));
    if (!client) continue;  // stale
    live.push_back(candidate);
    found = std::move(client).value();
  }
  if (!found) return fail(ErrorKind::kNoSuchGuest, "no guest is running");
  if (live.size() > 1) {
    return fail(ErrorKind::kNoSuchGuest, "several guests are running ({}): give a name",
                fmt::join(live, ", "));
  }
  return std::move(*found);
}

Result<bool> ControlClient::receive(std::optional<Clock::time_point> deadline) {
  TRY(const auto ready, wait_readable(fd_, deadline));
  if (!ready) return fail(Error(ErrorKind::kFailed, "the guest does not answer", ETIMEDOUT));
  std::array<char, 4096> buffer;
  const ssize_t n = ::recv(fd_.get(), buffer.data(), buffer.size(), 0);
  if (n < 0 && errno != ECONNRESET) {
    return fail_errno(ErrorKind::kFailed, "cannot read the guest's reply");
  }
  if (n <= 0) return false;
  received_.append(buffer.data(), static_cast<std::size_t>(n));
  return true;
}

Result<std::string> ControlClient::read_line(std::optional<Timeout> timeout) {
  std::optional<Clock::time_point> deadline;
  if (timeout) deadline = Clock::now() + *timeout;
  std::size_t searched = 0;
  for (;;) {
    const auto end = received_.find('\n', searched);
    if (end != std::string::npos) {
      std::string line = received_.substr(0, end);
      received_.erase(0, end + 1);
      return line;
    }
    searched = received_.size();
    if (received_.size() > kMaxReply) return fail(ErrorKind::kFailed, "the reply is too long");
    TRY(const auto more, receive(deadline));
    if (!more) return fail(ErrorKind::kFailed, "the guest ended before it answered");
  }
}

Result<boost::json::value> ControlClient::call(std::string_view method,
                                               const boost::json::object& params,
                                               std::optional<Timeout> timeout) {
  const std::string line = format_rpc_request(method, params);
  if (::send(fd_.get(), line.data(), line.size(), MSG_NOSIGNAL) !=
      static_cast<ssize_t>(line.size())) {
    return fail_errno(ErrorKind::kFailed, "cannot send a request to the guest");
  }
  TRY(const auto reply, read_line(timeout));
  return parse_rpc_reply(reply);
}

Fd ControlClient::guest_process() const {
  ucred peer{};
  socklen_t size = sizeof peer;
  if (::getsockopt(fd_.get(), SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0 || peer.pid <= 0 ||
      peer.pid == ::getpid()) {
    return {};
  }
  return Fd(static_cast<int>(::syscall(SYS_pidfd_open, peer.pid, 0)));
}

Result<bool> ControlClient::wait_closed(Timeout timeout) {
  const auto deadline = Clock::now() + timeout;
  const Fd process = guest_process();
  for (;;) {
    const auto more = receive(deadline);
    if (!more && more.error().system_errno() == ETIMEDOUT) return false;
    if (!more) return fail(more.error());
    if (!more.value()) break;
  }
  if (!process.valid()) return true;
  TRY(const auto ended, wait_readable(process, deadline));
  return ended;
}

}  // namespace vmm
