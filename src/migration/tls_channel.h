#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/result.h"
#include "base/thread_annotations.h"
#include "migration/channel.h"
#include "migration/tcp_channel.h"
#include "migration/tls_engine.h"
#include "migration/tls_identity.h"

namespace vmm::migration {

// TLS 1.3 over TCP, with certificates on both sides. The handshake is part of the first read or
// write, so that whoever accepts connections waits for nobody; it has the timeout of then as a
// whole. Locks are held for as long as encryption takes, and never while waiting for the network;
// only who comes while the other direction shakes hands waits for that.
class TlsChannel final : public Channel {
 public:
  // peers: who may be at the other end.
  [[nodiscard]] static Result<std::unique_ptr<Channel>> create(
      std::unique_ptr<TcpSocket> socket, const TlsIdentity& identity, TlsSide side,
      std::vector<PeerId> peers, std::uint64_t records_per_key = kRecordsPerKey);

  [[nodiscard]] Result<> write(std::span<const iovec> parts) override;
  [[nodiscard]] Result<> read(std::span<const iovec> parts) override;
  void set_timeout(std::chrono::milliseconds timeout) override { socket_->set_timeout(timeout); }
  void interrupt() override { socket_->interrupt(); }
  [[nodiscard]] const std::string& peer() const override { return socket_->peer(); }

 private:
  TlsChannel(std::unique_ptr<TcpSocket> socket, std::unique_ptr<TlsEngine> engine)
      : socket_(std::move(socket)), engine_(std::move(engine)) {}

  [[nodiscard]] Result<> shake_hands() VMM_EXCLUDES(handshake_mutex_, mutex_);
  [[nodiscard]] Result<bool> handshake_step(std::vector<std::byte>& output) VMM_EXCLUDES(mutex_);
  [[nodiscard]] Result<> encrypt_some() VMM_EXCLUDES(mutex_);
  [[nodiscard]] Result<std::size_t> decrypt_some() VMM_EXCLUDES(mutex_);
  [[nodiscard]] std::span<const std::byte> next_record();
  [[nodiscard]] Result<> send(std::vector<std::byte>& output);

  const std::unique_ptr<TcpSocket> socket_;
  Mutex mutex_;
  const std::unique_ptr<TlsEngine> engine_ VMM_PT_GUARDED_BY(mutex_);
  Mutex handshake_mutex_;
  std::atomic<bool> ready_ = false;

  // Of the thread that writes.
  IovCursor to_write_;
  std::vector<std::byte> record_;  // made of several parts
  std::vector<std::byte> output_;
  // Of the thread that reads.
  IovCursor to_read_;
};

// Connections to the one that is `peer`.
class TlsConnector final : public Connector {
 public:
  TlsConnector(TcpAddress address, TlsIdentity identity, PeerId peer)
      : address_(std::move(address)), identity_(std::move(identity)), peer_(std::move(peer)) {}
  // The handshake, and with it the question who it is, comes with the first write.
  [[nodiscard]] Result<std::unique_ptr<Channel>> connect(
      std::chrono::milliseconds timeout) override;

 private:
  TcpAddress address_;
  TlsIdentity identity_;
  PeerId peer_;
};

// Connections of `peers` from a listener, which must outlive it. Who else connects gets no further
// than the handshake.
class TlsAcceptor final : public Acceptor {
 public:
  TlsAcceptor(TcpListener& listener, TlsIdentity identity, std::vector<PeerId> peers)
      : listener_(listener), identity_(std::move(identity)), peers_(std::move(peers)) {}
  [[nodiscard]] Result<std::unique_ptr<Channel>> accept(std::chrono::milliseconds timeout) override;
  void interrupt() override { listener_.interrupt(); }

 private:
  TcpListener& listener_;
  TlsIdentity identity_;
  std::vector<PeerId> peers_;
};

}  // namespace vmm::migration
