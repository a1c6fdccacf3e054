#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "migration/tcp_socket.h"
#include "migration/tls_certificate.h"
#include "migration/tls_identity.h"

struct bio_st;
struct ssl_st;
struct ssl_ctx_st;
struct x509_store_ctx_st;

namespace vmm::migration {

enum class TlsSide { kSource, kDestination };

// The most that one TLS record carries.
inline constexpr std::size_t kTlsRecord = 16U << 10;
// A key encrypts fewer records than AES-GCM bears (RFC 8446, 5.5): 128 GiB.
inline constexpr std::uint64_t kRecordsPerKey = 1U << 23;

// One end of a TLS connection, without threads and waiting: what it receives it takes from the
// socket as far as it is there, what is to be sent it leaves to its user. For one thread at a time.
// After an error every call gives that error. Errors are of kind kMigration and name the peer.
class TlsEngine {
 public:
  // socket outlives it. peers: who the other end may be, one of them.
  [[nodiscard]] static Result<std::unique_ptr<TlsEngine>> create(
      TcpSocket& socket, const TlsIdentity& identity, TlsSide side, std::vector<PeerId> peers,
      std::uint64_t records_per_key = kRecordsPerKey);
  TlsEngine(const TlsEngine&) = delete;
  TlsEngine& operator=(const TlsEngine&) = delete;
  ~TlsEngine();

  // A step of the handshake; whether it is complete, and the peer known and let in. Where it is
  // not, output has to be sent and more be received. Also after an error there may be output, with
  // which the peer learns of it.
  [[nodiscard]] Result<bool> shake_hands();
  // Encrypts 1 to kTlsRecord bytes into one record of the output.
  [[nodiscard]] Result<> encrypt(std::span<const std::byte> bytes);
  // Decrypts what has come, up to the size of `bytes`; 0 where more has to be received first.
  [[nodiscard]] Result<std::size_t> decrypt(std::span<std::byte> bytes);

  [[nodiscard]] std::size_t output_bytes() const { return output_.size(); }
  // Exchanges the output with an empty vector.
  void take_output(std::vector<std::byte>& empty) { output_.swap(empty); }
  // Why a connection that could not be written to has ended, where the peer has said so.
  [[nodiscard]] Error explain(const Error& lost);

 private:
  TlsEngine(TcpSocket& socket, TlsSide side, std::string name, std::vector<PeerId> peers,
            std::uint64_t records_per_key);

  // What OpenSSL calls.
  friend void set_verification(ssl_ctx_st& settings);
  friend int tls_receive(bio_st* bio, char* data, std::size_t size, std::size_t* received);
  friend int tls_send(bio_st* bio, const char* data, std::size_t size, std::size_t* sent);
  [[nodiscard]] int receive(std::span<std::byte> into, std::size_t& received);
  [[nodiscard]] bool judge(x509_store_ctx_st& verification, bool good);

  // Error of a call of OpenSSL's that has failed; nothing where it only wants more to be received.
  [[nodiscard]] std::optional<Error> failure(int result);
  [[nodiscard]] Error reason();
  [[nodiscard]] Error alert(int number) const;

  TcpSocket& socket_;
  const TlsSide side_;
  const std::string name_;  // this host's, in its certificate
  const std::vector<PeerId> peers_;
  const std::uint64_t records_per_key_;
  std::unique_ptr<ssl_st, void (*)(ssl_st*)> ssl_;
  std::vector<std::byte> output_;
  std::array<std::byte, 8> first_bytes_{};  // of the peer: what speaks no TLS is told by them
  std::size_t first_count_ = 0;
  std::uint64_t records_ = 0;  // under the present key
  std::optional<Error> socket_error_;
  std::optional<Error> rejection_;  // why the peer is not let in
  std::optional<Error> error_;
};

// Sets what a connection's engine needs of its settings: both sides are verified, by its peers_.
void set_verification(ssl_ctx_st& settings);

}  // namespace vmm::migration
