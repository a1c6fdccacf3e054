#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <thread>
#include <vector>

#include "base/fd.h"
#include "load/loads.h"
#include "load/measured.h"

namespace vmm::load {
namespace {

constexpr std::size_t kBufferBytes = 256 << 10;

// What the client asks its server for, in the byte order both have.
struct Request {
  std::uint32_t exchange;
  std::uint32_t unused;
  std::uint64_t count;
};

Result<Fd> make_socket() {
  Fd socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!socket.valid()) return fail_errno(ErrorKind::kFailed, "make a socket");
  return socket;
}

Result<> without_delay(const Fd& socket) {
  const int on = 1;
  if (::setsockopt(socket.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) != 0) {
    return fail_errno(ErrorKind::kFailed, "set TCP_NODELAY");
  }
  return success();
}

template <typename T>
std::span<const std::byte> bytes_of(const T& value) {
  return std::as_bytes(std::span(&value, 1));
}

// One end of a connection. Each exchange is a request of the client and count units of work; a byte
// from whoever receives the stream ends it.
class Connection {
 public:
  explicit Connection(Fd socket) : socket_(std::move(socket)), buffer_(kBufferBytes) {}

  [[nodiscard]] Result<> request(Exchange exchange, std::uint64_t count) {
    const Request request{static_cast<std::uint32_t>(exchange), 0, count};
    TRY(write_all(socket_, bytes_of(request), "the connection"));
    if (exchange == Exchange::kSend) {
      TRY(send(count));
      return receive(1);
    }
    if (exchange == Exchange::kReceive) {
      TRY(receive(count));
      return send(1);
    }
    return ping(count);
  }

  // Serves requests until the client is gone, which is an error, too.
  [[nodiscard]] Result<> serve() {
    while (true) {
      Request request{};
      TRY(read_exact(socket_, std::as_writable_bytes(std::span(&request, 1)), "the connection"));
      if (request.exchange == static_cast<std::uint32_t>(Exchange::kSend)) {
        TRY(receive(request.count));
        TRY(send(1));
      } else if (request.exchange == static_cast<std::uint32_t>(Exchange::kReceive)) {
        TRY(send(request.count));
        TRY(receive(1));
      } else {
        TRY(echo(request.count));
      }
    }
  }

 private:
  [[nodiscard]] Result<> send(std::uint64_t count) {
    while (count != 0) {
      const auto part = std::span(buffer_).first(std::min<std::uint64_t>(count, buffer_.size()));
      TRY(write_all(socket_, part, "the connection"));
      count -= part.size();
    }
    return success();
  }

  [[nodiscard]] Result<> receive(std::uint64_t count) {
    while (count != 0) {
      const std::size_t room = std::min<std::uint64_t>(count, buffer_.size());
      const ssize_t length = ::read(socket_.get(), buffer_.data(), room);
      if (length < 0) return fail_errno(ErrorKind::kFailed, "receive");
      if (length == 0) return fail(ErrorKind::kFailed, "the peer has closed the connection");
      count -= static_cast<std::uint64_t>(length);
    }
    return success();
  }

  [[nodiscard]] Result<> ping(std::uint64_t count) {
    for (; count != 0; --count) {
      TRY(send(1));
      TRY(receive(1));
    }
    return success();
  }

  [[nodiscard]] Result<> echo(std::uint64_t count) {
    for (; count != 0; --count) {
      TRY(receive(1));
      TRY(send(1));
    }
    return success();
  }

  Fd socket_;
  std::vector<std::byte> buffer_;
};

Result<> call(int status, const char* what) {
  if (status != 0) return fail_errno(ErrorKind::kFailed, "{}", what);
  return success();
}

}  // namespace

Result<> run_network(const NetworkLoad& load) {
  TRY(Fd socket, make_socket());
  TRY(call(::connect(socket.get(), reinterpret_cast<const sockaddr*>(&load.peer), sizeof load.peer),
           "connect"));
  TRY(without_delay(socket));
  Connection connection(std::move(socket));
  return measured(load.name, load.count,
                  [&](std::uint64_t count) { return connection.request(load.exchange, count); });
}

Result<> serve(const Server& server) {
  TRY(const Fd listener, make_socket());
  const int on = 1;
  TRY(call(::setsockopt(listener.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on),
           "set SO_REUSEADDR"));
  TRY(call(::bind(listener.get(), reinterpret_cast<const sockaddr*>(&server.address),
                  sizeof server.address),
           "bind"));
  TRY(call(::listen(listener.get(), 1), "listen"));
  std::puts("load: serving");
  std::fflush(stdout);
  while (true) {
    Fd socket(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (!socket.valid()) return fail_errno(ErrorKind::kFailed, "accept a connection");
    TRY(without_delay(socket));
    // A client that is done closes the connection, which ends its thread with an error; one whose
    // guest is gone does not even do that.
    std::thread([connection = Connection(std::move(socket))]() mutable {
      static_cast<void>(connection.serve());
    }).detach();
  }
}

}  // namespace vmm::load
