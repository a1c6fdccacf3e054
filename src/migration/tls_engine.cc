#include "migration/tls_engine.h"

#include <openssl/err.h>
#include <openssl/ssl.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "migration/preamble.h"

namespace vmm::migration {
namespace {

// ALPN: the protocol's version is the preamble's business.
constexpr std::string_view kProtocol = "vmm-migration";
// More is never pending, whatever a peer asks for.
constexpr std::size_t kMaxOutput = 1U << 20;
// Types of TLS records.
constexpr auto kFirstRecordType = std::byte{20};
constexpr auto kLastRecordType = std::byte{23};

std::array<unsigned char, 1 + kProtocol.size()> protocol_list() {
  std::array<unsigned char, 1 + kProtocol.size()> list{kProtocol.size()};
  std::ranges::copy(kProtocol, list.begin() + 1);
  return list;
}

int select_protocol(SSL* /*ssl*/, const unsigned char** chosen, unsigned char* size,
                    const unsigned char* offered, unsigned offered_size, void* /*unused*/) {
  static const auto kOurs = protocol_list();
  const int found = SSL_select_next_proto(const_cast<unsigned char**>(chosen), size, kOurs.data(),
                                          kOurs.size(), offered, offered_size);
  return found == OPENSSL_NPN_NEGOTIATED ? SSL_TLSEXT_ERR_OK : SSL_TLSEXT_ERR_ALERT_FATAL;
}

bool agreed_on_protocol(const SSL* ssl) {
  const unsigned char* chosen = nullptr;
  unsigned size = 0;
  SSL_get0_alpn_selected(ssl, &chosen, &size);
  return std::string_view(reinterpret_cast<const char*>(chosen), size) == kProtocol;
}

long control(BIO* /*bio*/, int command, long /*number*/, void* /*pointer*/) {
  return command == BIO_CTRL_FLUSH ? 1 : 0;
}

}  // namespace

int tls_receive(BIO* bio, char* data, std::size_t size, std::size_t* received) {
  BIO_clear_retry_flags(bio);
  auto& engine = *static_cast<TlsEngine*>(BIO_get_data(bio));
  const int result = engine.receive(std::as_writable_bytes(std::span(data, size)), *received);
  if (result == 0 && !engine.socket_error_) BIO_set_retry_read(bio);
  return result;
}

int tls_send(BIO* bio, const char* data, std::size_t size, std::size_t* sent) {
  BIO_clear_retry_flags(bio);
  auto& output = static_cast<TlsEngine*>(BIO_get_data(bio))->output_;
  if (output.size() + size > kMaxOutput) return 0;
  const auto* bytes = reinterpret_cast<const std::byte*>(data);
  output.insert(output.end(), bytes, bytes + size);
  *sent = size;
  return 1;
}

namespace {

// Lives as long as the program.
const BIO_METHOD* bio_method() {
  static const BIO_METHOD* const kMethod = [] {
    BIO_METHOD* method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "channel");
    if (method != nullptr) {
      BIO_meth_set_read_ex(method, tls_receive);
      BIO_meth_set_write_ex(method, tls_send);
      BIO_meth_set_ctrl(method, control);
    }
    return method;
  }();
  return kMethod;
}

}  // namespace

void set_verification(ssl_ctx_st& settings) {
  SSL_CTX_set_verify(&settings, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT,
                     [](int good, X509_STORE_CTX* verification) {
                       const auto* ssl = static_cast<SSL*>(X509_STORE_CTX_get_ex_data(
                           verification, SSL_get_ex_data_X509_STORE_CTX_idx()));
                       auto& engine = *static_cast<TlsEngine*>(SSL_get_app_data(ssl));
                       return engine.judge(*verification, good == 1) ? 1 : 0;
                     });
  SSL_CTX_set_alpn_select_cb(&settings, select_protocol, nullptr);
}

Result<std::unique_ptr<TlsEngine>> TlsEngine::create(TcpSocket& socket, const TlsIdentity& identity,
                                                     TlsSide side, std::vector<PeerId> peers,
                                                     std::uint64_t records_per_key) {
  const auto& info = identity.info();
  std::unique_ptr<TlsEngine> engine(
      new TlsEngine(socket, side, info.names.empty() ? info.subject : info.names.front(),
                    std::move(peers), records_per_key));
  ERR_clear_error();
  engine->ssl_.reset(SSL_new(identity.context()));
  const BIO_METHOD* method = bio_method();
  BIO* bio = method == nullptr ? nullptr : BIO_new(method);
  if (!engine->ssl_ || bio == nullptr) {
    BIO_free(bio);
    return fail(ErrorKind::kMigration, "cannot set up TLS: {}", openssl_reason());
  }
  BIO_set_data(bio, engine.get());
  BIO_set_init(bio, 1);
  SSL* ssl = engine->ssl_.get();
  SSL_set_bio(ssl, bio, bio);
  SSL_set_app_data(ssl, engine.get());
  if (side == TlsSide::kDestination) {
    SSL_set_accept_state(ssl);
    return engine;
  }
  SSL_set_connect_state(ssl);
  const auto list = protocol_list();
  if (SSL_set_alpn_protos(ssl, list.data(), list.size()) != 0) {
    return fail(ErrorKind::kMigration, "cannot set up TLS: {}", openssl_reason());
  }
  return engine;
}

TlsEngine::TlsEngine(TcpSocket& socket, TlsSide side, std::string name, std::vector<PeerId> peers,
                     std::uint64_t records_per_key)
    : socket_(socket),
      side_(side),
      name_(std::move(name)),
      peers_(std::move(peers)),
      records_per_key_(records_per_key),
      ssl_(nullptr, &SSL_free) {}

TlsEngine::~TlsEngine() = default;

Result<bool> TlsEngine::shake_hands() {
  if (error_) return fail(*error_);
  ERR_clear_error();
  const int result = SSL_do_handshake(ssl_.get());
  if (result == 1) {
    if (agreed_on_protocol(ssl_.get())) return true;
    error_ =
        make_error(ErrorKind::kMigration, "{} speaks TLS, but not for migrations", socket_.peer());
    return fail(*error_);
  }
  error_ = failure(result);
  if (error_) return fail(*error_);
  return false;
}

Result<> TlsEngine::encrypt(std::span<const std::byte> bytes) {
  if (error_) return fail(*error_);
  ERR_clear_error();
  if (records_ >= records_per_key_) {
    if (SSL_key_update(ssl_.get(), SSL_KEY_UPDATE_NOT_REQUESTED) != 1) {
      error_ = reason();
      return fail(*error_);
    }
    records_ = 0;
  }
  ++records_;
  std::size_t written = 0;
  const int result = SSL_write_ex(ssl_.get(), bytes.data(), bytes.size(), &written);
  if (result == 1 && written == bytes.size()) return success();
  error_ = failure(result);
  // The output takes everything, so nothing can be wanted first.
  if (!error_) error_ = reason();
  return fail(*error_);
}

Result<std::size_t> TlsEngine::decrypt(std::span<std::byte> bytes) {
  if (error_) return fail(*error_);
  ERR_clear_error();
  std::size_t count = 0;
  const int result = SSL_read_ex(ssl_.get(), bytes.data(), bytes.size(), &count);
  if (result == 1) return count;
  error_ = failure(result);
  if (error_) return fail(*error_);
  return std::size_t{0};
}

Error TlsEngine::explain(const Error& lost) {
  if (error_) return *error_;
  ERR_clear_error();
  std::byte unused{};
  std::size_t count = 0;
  const int result = SSL_peek_ex(ssl_.get(), &unused, 1, &count);
  if (result == 1) return lost;
  error_ = failure(result);
  // That the socket gives nothing any more is known.
  if (!error_ || socket_error_) error_ = lost;
  return *error_;
}

int TlsEngine::receive(std::span<std::byte> into, std::size_t& received) {
  received = 0;
  const iovec part{.iov_base = into.data(), .iov_len = into.size()};
  auto result = socket_.try_receive(std::span(&part, 1));
  if (!result) {
    socket_error_ = std::move(result).error();
    return 0;
  }
  received = result.value();
  const auto kept = std::min(first_bytes_.size() - first_count_, received);
  std::ranges::copy(into.first(kept), first_bytes_.begin() + static_cast<long>(first_count_));
  first_count_ += kept;
  return received > 0 ? 1 : 0;
}

bool TlsEngine::judge(x509_store_ctx_st& verification, bool good) {
  X509* certificate = X509_STORE_CTX_get0_cert(&verification);
  if (certificate == nullptr) return false;
  const auto info = describe(*certificate);
  if (!good) {
    rejection_ =
        make_error(ErrorKind::kMigration, "the certificate of {} at {} {}", info.text(),
                   socket_.peer(), verification_failure(X509_STORE_CTX_get_error(&verification)));
    return false;
  }
  const bool whole_chain = X509_STORE_CTX_get_error_depth(&verification) == 0;
  if (!whole_chain || std::ranges::any_of(peers_, [&](const auto& id) { return id.is(info); })) {
    return true;
  }
  // One that was asked for by name is another; or one that was let in by name is not among them.
  rejection_ =
      side_ == TlsSide::kSource && !peers_.empty()
          ? make_error(ErrorKind::kMigration, "{} is {}, and not {}", socket_.peer(), info.text(),
                       peers_.front().text())
          : make_error(ErrorKind::kMigration, "{} at {} is not among those of --allow-peer",
                       info.text(), socket_.peer());
  X509_STORE_CTX_set_error(&verification, X509_V_ERR_APPLICATION_VERIFICATION);
  return false;
}

std::optional<Error> TlsEngine::failure(int result) {
  switch (SSL_get_error(ssl_.get(), result)) {
    case SSL_ERROR_WANT_READ:
      return std::nullopt;
    case SSL_ERROR_ZERO_RETURN:
      return make_error(ErrorKind::kMigration, "{} closed the connection", socket_.peer());
    default:
      return reason();
  }
}

Error TlsEngine::reason() {
  if (rejection_) return *rejection_;
  if (socket_error_) return *socket_error_;
  const std::string& peer = socket_.peer();
  const auto first = std::span(first_bytes_).first(first_count_);
  if (!first.empty() && first.size() <= kMagic.size() &&
      std::memcmp(first.data(), kMagic.data(), first.size()) == 0) {
    output_.clear();
    if (side_ == TlsSide::kDestination) {
      output_ =
          encode(PreambleAnswer{1, "it wants TLS: give --plaintext on both sides or neither"});
      return make_error(ErrorKind::kMigration,
                        "the source speaks plaintext; it must not be given --plaintext, or vmm "
                        "receive must, too");
    }
    return make_error(ErrorKind::kMigration,
                      "{} speaks plaintext; vmm receive there must not be given --plaintext, or "
                      "vmm migrate must, too",
                      peer);
  }
  if (!first.empty() && (first[0] < kFirstRecordType || first[0] > kLastRecordType)) {
    output_.clear();
    return make_error(ErrorKind::kMigration, "{} does not speak TLS", peer);
  }
  const unsigned long error = ERR_peek_error();
  const int code = ERR_GET_LIB(error) == ERR_LIB_SSL ? ERR_GET_REASON(error) : 0;
  if (code >= SSL_AD_REASON_OFFSET) {
    ERR_clear_error();
    return alert(code - SSL_AD_REASON_OFFSET);
  }
  if (code == SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE) {
    ERR_clear_error();
    return make_error(ErrorKind::kMigration, "{} has no certificate", peer);
  }
  return make_error(ErrorKind::kMigration, "TLS with {}: {}", peer, openssl_reason());
}

Error TlsEngine::alert(int number) const {
  const std::string& peer = socket_.peer();
  const auto about_ours = [&](std::string_view what) {
    return make_error(ErrorKind::kMigration, "{} does not take the certificate of {}: {}", peer,
                      name_, what);
  };
  switch (number) {
    case SSL_AD_HANDSHAKE_FAILURE:
      return about_ours(side_ == TlsSide::kSource ? "it is not among those of --allow-peer there"
                                                  : "it was to be of another host");
    case SSL_AD_CERTIFICATE_EXPIRED:
      return about_ours("it has expired, by the clock there");
    case SSL_AD_BAD_CERTIFICATE:
      return about_ours("it is bad, or not valid yet, by the clock there");
    case SSL_AD_CERTIFICATE_REVOKED:
      return about_ours("it has been revoked");
    case SSL_AD_UNKNOWN_CA:
      return about_ours("it is of another CA");
    case SSL_AD_NO_APPLICATION_PROTOCOL:
      return make_error(ErrorKind::kMigration, "{} speaks TLS, but not for migrations", peer);
    default:
      return make_error(ErrorKind::kMigration, "{} ended TLS: {}", peer,
                        SSL_alert_desc_string_long(number));
  }
}

}  // namespace vmm::migration
