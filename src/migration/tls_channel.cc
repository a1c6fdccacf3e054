#include "migration/tls_channel.h"

#include <algorithm>
#include <utility>

namespace vmm::migration {
namespace {

using Clock = std::chrono::steady_clock;

// Encrypted, or decrypted, before it is sent or the lock given up: few system calls, and what the
// CPU's cache holds.
constexpr std::size_t kBatch = 128U << 10;

}  // namespace

Result<std::unique_ptr<Channel>> TlsChannel::create(std::unique_ptr<TcpSocket> socket,
                                                    const TlsIdentity& identity, TlsSide side,
                                                    std::vector<PeerId> peers,
                                                    std::uint64_t records_per_key) {
  TRY(auto engine, TlsEngine::create(*socket, identity, side, std::move(peers), records_per_key));
  return std::unique_ptr<Channel>(new TlsChannel(std::move(socket), std::move(engine)));
}

Result<> TlsChannel::shake_hands() {
  if (ready_) return success();
  const MutexLock only_one(handshake_mutex_);
  if (ready_) return success();
  const auto timeout = socket_->timeout();
  const auto begun = Clock::now();
  std::vector<std::byte> output;
  for (;;) {
    auto done = handshake_step(output);
    auto sent = output.empty() ? success() : send(output);
    if (!done) return fail(std::move(done).error());
    if (!sent) return sent;
    if (done.value()) {
      ready_ = true;
      return success();
    }
    if (timeout == kNoTimeout) {
      TRY(socket_->wait_to_receive(timeout));
      continue;
    }
    const auto spent = std::chrono::floor<std::chrono::milliseconds>(Clock::now() - begun);
    if (spent >= timeout) {
      return fail(ErrorKind::kMigration, "{} takes too long to agree on TLS", peer());
    }
    TRY(socket_->wait_to_receive(timeout - spent));
  }
}

Result<bool> TlsChannel::handshake_step(std::vector<std::byte>& output) {
  const MutexLock lock(mutex_);
  auto done = engine_->shake_hands();
  output.clear();
  engine_->take_output(output);
  return done;
}

Result<> TlsChannel::write(std::span<const iovec> parts) {
  TRY(shake_hands());
  to_write_.assign(parts);
  while (!to_write_.done()) {
    TRY(encrypt_some());
    TRY(send(output_));
  }
  return success();
}

Result<> TlsChannel::encrypt_some() {
  const MutexLock lock(mutex_);
  while (!to_write_.done() && engine_->output_bytes() < kBatch) {
    const auto record = next_record();
    TRY(engine_->encrypt(record));
    to_write_.advance(record.size());
  }
  output_.clear();
  engine_->take_output(output_);
  return success();
}

// Large parts are encrypted from where they lie, small ones put together.
std::span<const std::byte> TlsChannel::next_record() {
  const auto rest = to_write_.rest();
  const auto* first = static_cast<const std::byte*>(rest.front().iov_base);
  if (rest.size() == 1 || rest.front().iov_len >= kTlsRecord) {
    return {first, std::min(rest.front().iov_len, kTlsRecord)};
  }
  record_.clear();
  for (const auto& part : rest) {
    const auto* bytes = static_cast<const std::byte*>(part.iov_base);
    const auto count = std::min(part.iov_len, kTlsRecord - record_.size());
    record_.insert(record_.end(), bytes, bytes + count);
    if (record_.size() == kTlsRecord) break;
  }
  return record_;
}

Result<> TlsChannel::send(std::vector<std::byte>& output) {
  std::span<std::byte> rest(output);
  while (!rest.empty()) {
    const iovec part{.iov_base = rest.data(), .iov_len = rest.size()};
    auto sent = socket_->send_some(std::span(&part, 1));
    if (!sent) {
      // A peer that does not let this host in says so and closes.
      const MutexLock lock(mutex_);
      return fail(engine_->explain(sent.error()));
    }
    rest = rest.subspan(sent.value());
  }
  return success();
}

Result<> TlsChannel::read(std::span<const iovec> parts) {
  TRY(shake_hands());
  to_read_.assign(parts);
  while (!to_read_.done()) {
    TRY(const auto count, decrypt_some());
    if (count == 0) {
      TRY(socket_->wait_to_receive(socket_->timeout()));
    }
  }
  return success();
}

Result<std::size_t> TlsChannel::decrypt_some() {
  const MutexLock lock(mutex_);
  std::size_t total = 0;
  while (!to_read_.done() && total < kBatch) {
    const auto& part = to_read_.rest().front();
    TRY(const auto count, engine_->decrypt({static_cast<std::byte*>(part.iov_base), part.iov_len}));
    if (count == 0) break;
    to_read_.advance(count);
    total += count;
  }
  return total;
}

Result<std::unique_ptr<Channel>> TlsConnector::connect(std::chrono::milliseconds timeout) {
  TRY(auto socket, tcp_connect(address_, timeout));
  return TlsChannel::create(std::move(socket), identity_, TlsSide::kSource, {peer_});
}

Result<std::unique_ptr<Channel>> TlsAcceptor::accept(std::chrono::milliseconds timeout) {
  TRY(auto socket, listener_.accept(timeout));
  return TlsChannel::create(std::move(socket), identity_, TlsSide::kDestination, peers_);
}

}  // namespace vmm::migration
