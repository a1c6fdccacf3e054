#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "base/fd.h"
#include "base/result.h"
#include "migration/channel.h"
#include "migration/tcp_socket.h"

namespace vmm::migration {

// Plain TCP.
class TcpChannel final : public Channel {
 public:
  explicit TcpChannel(std::unique_ptr<TcpSocket> socket) : socket_(std::move(socket)) {}

  [[nodiscard]] Result<> write(std::span<const iovec> parts) override;
  // Large parts go to the network from where they lie, without a copy.
  [[nodiscard]] Result<> write_live(std::span<const iovec> parts) override;
  [[nodiscard]] Result<> read(std::span<const iovec> parts) override;
  void set_timeout(std::chrono::milliseconds timeout) override { socket_->set_timeout(timeout); }
  void interrupt() override { socket_->interrupt(); }
  [[nodiscard]] const std::string& peer() const override { return socket_->peer(); }

 private:
  [[nodiscard]] Result<> write_copies(std::span<const iovec> parts, bool more);

  std::unique_ptr<TcpSocket> socket_;
  // One each for the thread that writes and the one that reads.
  IovCursor to_write_;
  IovCursor to_read_;
};

struct TcpAddress {
  std::string host;  // a name or an address, without brackets; empty for "any" when listening
  std::uint16_t port = 0;

  // From "host:port", "[v6 address]:port" or ":port". Error (kUsage) for anything else.
  [[nodiscard]] static Result<TcpAddress> parse(std::string_view text);
  // The same way back.
  [[nodiscard]] std::string text() const;
};

// Resolves the address and connects to the first of its addresses that answers. The channel starts
// with `timeout`, too. Error (kMigration) that names the address: unknown, refused, unreachable, no
// answer in time. A name server that does not answer can hold this up for longer than the timeout.
[[nodiscard]] Result<std::unique_ptr<TcpSocket>> tcp_connect(const TcpAddress& address,
                                                             std::chrono::milliseconds timeout);

class TcpConnector final : public Connector {
 public:
  explicit TcpConnector(TcpAddress address) : address_(std::move(address)) {}
  [[nodiscard]] Result<std::unique_ptr<Channel>> connect(
      std::chrono::milliseconds timeout) override;

 private:
  TcpAddress address_;
};

// Accepts connections. One thread accepts; interrupt() from any.
class TcpListener {
 public:
  // Binds and listens; port 0 takes any free one. Error (kFailed) that names the address.
  [[nodiscard]] static Result<TcpListener> listen(const TcpAddress& address);

  // Waits for a connection, for as long as it takes. The socket starts with `timeout`. Error
  // (kInterrupted) after interrupt().
  [[nodiscard]] Result<std::unique_ptr<TcpSocket>> accept(std::chrono::milliseconds timeout);
  // Makes accept() fail, now and later.
  void interrupt() { signal_eventfd(interrupt_); }
  // The address that is listened on, with the actual port.
  [[nodiscard]] const TcpAddress& address() const { return address_; }

 private:
  TcpListener(Fd socket, Fd interrupt, TcpAddress address)
      : socket_(std::move(socket)),
        interrupt_(std::move(interrupt)),
        address_(std::move(address)) {}

  Fd socket_;
  Fd interrupt_;
  TcpAddress address_;
};

// Plain channels from a listener, which must outlive it.
class TcpAcceptor final : public Acceptor {
 public:
  explicit TcpAcceptor(TcpListener& listener) : listener_(listener) {}
  [[nodiscard]] Result<std::unique_ptr<Channel>> accept(std::chrono::milliseconds timeout) override;
  void interrupt() override { listener_.interrupt(); }

 private:
  TcpListener& listener_;
};

}  // namespace vmm::migration
