#include "migration/tls_identity.h"

#include <fcntl.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509_vfy.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <optional>

#include "base/fd.h"
#include "migration/tls_engine.h"

namespace vmm::migration {
namespace {

// Both sides choose the first that the other has, too. AES is what CPUs have instructions for.
constexpr const char* kCipherSuites =
    "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256";
// Several records are taken out of the socket at once.
constexpr std::size_t kReadBuffer = 256U << 10;

Error out_of_memory() {
  return make_error(ErrorKind::kFailed, "cannot set up TLS: {}", openssl_reason());
}

using Store = std::shared_ptr<x509_store_st>;

// What peers, and this host itself, are verified against.
Result<Store> make_store(const std::vector<Certificate>& authorities,
                         const std::optional<RevocationList>& revoked, const std::string& file) {
  const Store store(X509_STORE_new(), &X509_STORE_free);
  if (!store) return fail(out_of_memory());
  for (const auto& authority : authorities) {
    if (X509_STORE_add_cert(store.get(), authority.get()) != 1) return fail(out_of_memory());
  }
  if (!revoked) return store;
  const auto signed_by = [&](const Certificate& authority) {
    return X509_CRL_verify(revoked->get(), X509_get0_pubkey(authority.get())) == 1;
  };
  if (std::ranges::none_of(authorities, signed_by)) {
    ERR_clear_error();
    return fail(ErrorKind::kUsage, "{} is not a list of the CA in {}", file, kCaFile);
  }
  if (X509_STORE_add_crl(store.get(), revoked->get()) != 1 ||
      X509_STORE_set_flags(store.get(), X509_V_FLAG_CRL_CHECK) != 1) {
    return fail(out_of_memory());
  }
  return store;
}

Result<> verify_own(const Store& store, const Certificate& own, const std::string& file) {
  const std::unique_ptr<X509_STORE_CTX, decltype(&X509_STORE_CTX_free)> context(
      X509_STORE_CTX_new(), &X509_STORE_CTX_free);
  if (!context || X509_STORE_CTX_init(context.get(), store.get(), own.get(), nullptr) != 1) {
    return fail(out_of_memory());
  }
  if (X509_verify_cert(context.get()) == 1) return success();
  const int error = X509_STORE_CTX_get_error(context.get());
  ERR_clear_error();
  return fail(ErrorKind::kUsage, "this host's certificate, {}, {}", file,
              verification_failure(error));
}

Result<std::shared_ptr<ssl_ctx_st>> make_context(const Certificate& own, const PrivateKey& key,
                                                 const Store& store) {
  std::shared_ptr<SSL_CTX> context(SSL_CTX_new(TLS_method()), &SSL_CTX_free);
  if (!context) return fail(out_of_memory());
  auto* settings = context.get();
  SSL_CTX_set_options(settings, SSL_OP_NO_TICKET | SSL_OP_NO_RENEGOTIATION);
  SSL_CTX_set_session_cache_mode(settings, SSL_SESS_CACHE_OFF);
  SSL_CTX_set_mode(settings, SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
  SSL_CTX_set_read_ahead(settings, 1);
  SSL_CTX_set_default_read_buffer_len(settings, kReadBuffer);
  SSL_CTX_set1_cert_store(settings, store.get());
  set_verification(*settings);
  if (SSL_CTX_set_min_proto_version(settings, TLS1_3_VERSION) != 1 ||
      SSL_CTX_set_max_proto_version(settings, TLS1_3_VERSION) != 1 ||
      SSL_CTX_set_num_tickets(settings, 0) != 1 ||
      SSL_CTX_set_ciphersuites(settings, kCipherSuites) != 1 ||
      SSL_CTX_use_certificate(settings, own.get()) != 1 ||
      SSL_CTX_use_PrivateKey(settings, key.get()) != 1) {
    return fail(out_of_memory());
  }
  return context;
}

}  // namespace

std::string verification_failure(int error) {
  switch (error) {
    case X509_V_ERR_CERT_HAS_EXPIRED:
      return "has expired";
    case X509_V_ERR_CERT_NOT_YET_VALID:
      return "is not valid yet";
    case X509_V_ERR_CERT_REVOKED:
      return "has been revoked";
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT:
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY:
    case X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE:
    case X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT:
    case X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN:
    case X509_V_ERR_CERT_SIGNATURE_FAILURE:
    case X509_V_ERR_UNABLE_TO_GET_CRL:
      return fmt::format("is of a CA that is not in {}", kCaFile);
    default:
      return fmt::format("does not do: {}", X509_verify_cert_error_string(error));
  }
}

Result<std::string> read_tls_file(const std::filesystem::path& file) {
  if (::access(file.c_str(), F_OK) != 0 && errno == ENOENT) {
    return fail(
        ErrorKind::kUsage,
        "there is no {}: vmm tls init makes a CA, and vmm tls issue where that is a key and "
        "certificate for this host",
        file.string());
  }
  auto text = read_file(file, kMaxPem);
  if (!text) return fail(ErrorKind::kUsage, "{}", text.error().message());
  return text;
}

Result<std::string> read_key_file(const std::filesystem::path& file) {
  struct stat info {};
  if (::stat(file.c_str(), &info) == 0 && (info.st_mode & (S_IRWXG | S_IRWXO)) != 0) {
    return fail(ErrorKind::kUsage, "{} is for its owner alone, but has mode {:04o}: chmod 600 it",
                file.string(), info.st_mode & 07777);
  }
  return read_tls_file(file);
}

Result<TlsIdentity> TlsIdentity::load(const std::filesystem::path& folder) {
  const std::string file = folder / kCertificateFile;
  TRY(const auto own_pem, read_tls_file(file));
  TRY(const auto own, parse_certificates(own_pem, file));
  TRY(const auto key_pem, read_key_file(folder / kKeyFile));
  TRY(const auto key, parse_private_key(key_pem, folder / kKeyFile));
  if (X509_check_private_key(own.front().get(), key.get()) != 1) {
    ERR_clear_error();
    return fail(ErrorKind::kUsage, "{} is not the key of {}", (folder / kKeyFile).string(), file);
  }
  TRY(const auto ca_pem, read_tls_file(folder / kCaFile));
  TRY(const auto authorities, parse_certificates(ca_pem, folder / kCaFile));
  const std::string list_file = folder / kRevocationFile;
  std::optional<RevocationList> revoked;
  if (::access(list_file.c_str(), F_OK) == 0 || errno != ENOENT) {
    TRY(const auto pem, read_tls_file(list_file));
    TRY(revoked, parse_revocation_list(pem, list_file));
  }
  TRY(const auto store, make_store(authorities, revoked, list_file));
  TRY(verify_own(store, own.front(), file));
  TRY(auto context, make_context(own.front(), key, store));
  return TlsIdentity(std::move(context), describe(*own.front()));
}

Result<std::filesystem::path> default_tls_folder() {
  constexpr std::string_view kFolder = "vmm/tls";
  const auto variable = [](const char* name) -> std::filesystem::path {
    const char* value = std::getenv(name);
    return value == nullptr || *value != '/' ? "" : value;
  };
  if (const auto config = variable("XDG_CONFIG_HOME"); !config.empty()) return config / kFolder;
  if (::geteuid() == 0) return std::filesystem::path("/etc") / kFolder;
  const auto home = variable("HOME");
  if (home.empty()) {
    return fail(ErrorKind::kHost, "no TLS folder: neither XDG_CONFIG_HOME nor HOME is set");
  }
  return home / ".config" / kFolder;
}

}  // namespace vmm::migration
