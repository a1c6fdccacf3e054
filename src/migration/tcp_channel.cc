#include "migration/tcp_channel.h"

#include <poll.h>
#include <sys/socket.h>

#include <boost/asio/connect.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ip/v6_only.hpp>

#include <algorithm>
#include <array>
#include <charconv>
#include <optional>
#include <utility>

namespace vmm::migration {
namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;

namespace {

constexpr int kBacklog = 64;

// Error that an asio operation gave.
Error asio_error(ErrorKind kind, std::string what, const error_code& error) {
  if (error.category() == boost::system::system_category()) {
    return Error(kind, std::move(what), error.value());
  }
  return make_error(kind, "{}: {}", what, error.message());
}

TcpAddress address_of(const tcp::endpoint& endpoint) {
  auto address = endpoint.address();
  if (address.is_v6() && address.to_v6().is_v4_mapped()) {
    address = asio::ip::make_address_v4(asio::ip::v4_mapped, address.to_v6());
  }
  return {address.to_string(), endpoint.port()};
}

// Asio throws only where the host is out of descriptors or memory.
template <typename T, typename Work>
Result<T> without_exceptions(ErrorKind kind, const std::string& what, Work work) {
  try {
    return work();
  } catch (const std::exception& error) {
    return fail(kind, "{}: {}", what, error.what());
  }
}

}  // namespace

Result<> TcpChannel::write(std::span<const iovec> parts) {
  return write_copies(parts, false);
}

Result<> TcpChannel::write_copies(std::span<const iovec> parts, bool more) {
  to_write_.assign(parts);
  while (!to_write_.done()) {
    TRY(const auto sent, socket_->send_some(to_write_.rest(), more));
    to_write_.advance(sent);
  }
  return success();
}

Result<> TcpChannel::write_live(std::span<const iovec> parts) {
  const auto is_large = [](const iovec& part) { return part.iov_len >= kReferredBytes; };
  while (!parts.empty()) {
    const auto large = std::ranges::find_if(parts, is_large);
    const auto copied = static_cast<std::size_t>(large - parts.begin());
    TRY(write_copies(parts.first(copied), copied < parts.size()));
    parts = parts.subspan(copied);
    if (parts.empty()) break;
    TRY(socket_->send_referred(parts.front(), parts.size() > 1));
    parts = parts.subspan(1);
  }
  return success();
}

Result<> TcpChannel::read(std::span<const iovec> parts) {
  to_read_.assign(parts);
  while (!to_read_.done()) {
    TRY(const auto received, socket_->receive_some(to_read_.rest()));
    to_read_.advance(received);
  }
  return success();
}

Result<TcpAddress> TcpAddress::parse(std::string_view text) {
  const auto colon = text.rfind(':');
  std::string_view host = text.substr(0, colon == text.npos ? 0 : colon);
  const std::string_view port_text = colon == text.npos ? text : text.substr(colon + 1);
  const bool bracketed = host.size() > 2 && host.front() == '[' && host.back() == ']';
  if (bracketed) host = host.substr(1, host.size() - 2);
  std::uint16_t port = 0;
  const auto [end, error] =
      std::from_chars(port_text.data(), port_text.data() + port_text.size(), port);
  const bool colons = host.find(':') != host.npos;
  if (colon == text.npos || error != std::errc{} || end != port_text.data() + port_text.size() ||
      colons != bracketed || host.find_first_of("[] ") != host.npos) {
    return fail(ErrorKind::kUsage, "'{}' is not an address: want HOST:PORT or [IPV6]:PORT", text);
  }
  return TcpAddress{std::string(host), port};
}

std::string TcpAddress::text() const {
  return host.find(':') == host.npos ? fmt::format("{}:{}", host, port)
                                     : fmt::format("[{}]:{}", host, port);
}

Result<std::unique_ptr<TcpSocket>> tcp_connect(const TcpAddress& address,
                                               std::chrono::milliseconds timeout) {
  const auto what = fmt::format("cannot connect to {}", address.text());
  using Socket = std::unique_ptr<TcpSocket>;
  return without_exceptions<Socket>(ErrorKind::kMigration, what, [&]() -> Result<Socket> {
    if (address.host.empty() || address.port == 0) {
      return fail(ErrorKind::kUsage, "{}: no host or port", what);
    }
    std::optional<error_code> outcome;
    tcp::endpoint endpoint;
    asio::io_context io(1);
    tcp::resolver resolver(io);
    tcp::socket socket(io);
    resolver.async_resolve(
        address.host, std::to_string(address.port), tcp::resolver::numeric_service,
        [&](const error_code& unresolved, const tcp::resolver::results_type& found) {
          if (unresolved) {
            outcome = unresolved;
            return;
          }
          asio::async_connect(socket, found,
                              [&](const error_code& error, const tcp::endpoint& connected) {
                                outcome = error;
                                endpoint = connected;
                              });
        });
    io.run_for(timeout);
    if (!outcome) {
      return fail(ErrorKind::kMigration, "{}: no answer for {:g} s", what,
                  std::chrono::duration<double>(timeout).count());
    }
    if (*outcome) return fail(asio_error(ErrorKind::kMigration, what, *outcome));
    return std::make_unique<TcpSocket>(Fd(socket.release()), address_of(endpoint).text(), timeout);
  });
}

Result<std::unique_ptr<Channel>> TcpConnector::connect(std::chrono::milliseconds timeout) {
  TRY(auto socket, tcp_connect(address_, timeout));
  return std::make_unique<TcpChannel>(std::move(socket));
}

Result<TcpListener> TcpListener::listen(const TcpAddress& address) {
  const auto what = fmt::format("cannot listen on {}", address.text());
  return without_exceptions<TcpListener>(ErrorKind::kFailed, what, [&]() -> Result<TcpListener> {
    asio::io_context io(1);
    error_code error;
    tcp::endpoint endpoint(tcp::v6(), address.port);
    if (!address.host.empty()) {
      tcp::resolver resolver(io);
      const auto found =
          resolver.resolve(address.host, std::to_string(address.port),
                           tcp::resolver::numeric_service | tcp::resolver::passive, error);
      if (error) return fail(asio_error(ErrorKind::kFailed, what, error));
      endpoint = *found.begin();
    }
    tcp::acceptor acceptor(io);
    acceptor.open(endpoint.protocol(), error);
    if (error == asio::error::address_family_not_supported && address.host.empty()) {
      endpoint = {tcp::v4(), address.port};  // a host without IPv6
      acceptor.open(endpoint.protocol(), error);
    }
    if (!error) acceptor.set_option(tcp::acceptor::reuse_address(true), error);
    if (!error && address.host.empty() && endpoint.protocol() == tcp::v6()) {
      acceptor.set_option(asio::ip::v6_only(false), error);
    }
    if (!error) acceptor.bind(endpoint, error);
    if (!error) acceptor.listen(kBacklog, error);
    if (!error) acceptor.non_blocking(true, error);
    if (!error) endpoint = acceptor.local_endpoint(error);
    if (error) return fail(asio_error(ErrorKind::kFailed, what, error));
    TRY(auto interrupt, make_eventfd());
    return TcpListener(Fd(acceptor.release()), std::move(interrupt), address_of(endpoint));
  });
}

Result<std::unique_ptr<TcpSocket>> TcpListener::accept(std::chrono::milliseconds timeout) {
  for (;;) {
    std::array<pollfd, 2> entries{{{socket_.get(), POLLIN, 0}, {interrupt_.get(), POLLIN, 0}}};
    if (::poll(entries.data(), entries.size(), -1) < 0 && errno != EINTR) {
      return fail_errno(ErrorKind::kFailed, "cannot wait on {}", address_.text());
    }
    if (entries[1].revents != 0) {
      return fail(ErrorKind::kInterrupted, "interrupted while listening on {}", address_.text());
    }
    tcp::endpoint peer;
    auto length = static_cast<socklen_t>(peer.capacity());
    Fd connected(::accept4(socket_.get(), peer.data(), &length, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (connected.valid()) {
      peer.resize(length);
      return std::make_unique<TcpSocket>(std::move(connected), address_of(peer).text(), timeout);
    }
    // Nothing there, or a connection that was gone before it was taken.
    if (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED) continue;
    return fail_errno(ErrorKind::kFailed, "cannot accept on {}", address_.text());
  }
}

Result<std::unique_ptr<Channel>> TcpAcceptor::accept(std::chrono::milliseconds timeout) {
  TRY(auto socket, listener_.accept(timeout));
  return std::unique_ptr<Channel>(std::make_unique<TcpChannel>(std::move(socket)));
}

}  // namespace vmm::migration
