#include "migration/tls_authority.h"

#include <fcntl.h>
#include <openssl/bn.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>

#include "base/fd.h"
#include "migration/tls_identity.h"

namespace vmm::migration {
namespace {

using std::chrono::seconds;

constexpr seconds kClockSkew = std::chrono::hours(1);
constexpr seconds kHostLife = std::chrono::days(730);
constexpr seconds kAuthorityLife = std::chrono::days(3650);
constexpr int kSerialBits = 126;
// What was issued, for revocation by name.
constexpr const char* kIssuedFile = "issued.pem";

Error openssl_error(std::string_view what) {
  return make_error(ErrorKind::kFailed, "cannot make {}: {}", what, openssl_reason());
}

template <typename Write>
std::string to_pem(Write write) {
  const std::unique_ptr<BIO, decltype(&BIO_free)> out(BIO_new(BIO_s_mem()), &BIO_free);
  char* data = nullptr;
  if (!out || write(out.get()) != 1) return {};
  const long size = BIO_get_mem_data(out.get(), &data);
  return {data, static_cast<std::size_t>(size)};
}
std::string to_pem(const Certificate& certificate) {
  return to_pem([&](BIO* out) { return PEM_write_bio_X509(out, certificate.get()); });
}
std::string to_pem(const PrivateKey& key) {
  return to_pem([&](BIO* out) {
    return PEM_write_bio_PKCS8PrivateKey(out, key.get(), nullptr, nullptr, 0, nullptr, nullptr);
  });
}

Result<> write_new(const std::filesystem::path& file, const std::string& text, unsigned mode) {
  TRY(const auto fd, open_file(file, O_WRONLY | O_CREAT | O_EXCL, mode));
  return write_all(fd, std::as_bytes(std::span(text)), file);
}

// Everything is written to a file beside it first, so that a crash leaves the one or the other.
Result<> replace(const std::filesystem::path& file, const std::string& text) {
  const std::string temporary = file.string() + ".new";
  static_cast<void>(::unlink(temporary.c_str()));
  TRY(write_new(temporary, text, 0644));
  if (::rename(temporary.c_str(), file.c_str()) != 0) {
    return fail_errno(ErrorKind::kFailed, "cannot rename {}", temporary);
  }
  return success();
}

Result<> make_folder(const std::filesystem::path& folder) {
  std::error_code error;
  if (folder.has_parent_path()) std::filesystem::create_directories(folder.parent_path(), error);
  if (error) {
    return fail(ErrorKind::kFailed, "cannot make {}: {}", folder.parent_path().string(),
                error.message());
  }
  if (::mkdir(folder.c_str(), 0700) != 0 && errno != EEXIST) {
    return fail_errno(ErrorKind::kFailed, "cannot make {}", folder.string());
  }
  return success();
}

// Nothing of these is there.
Result<> check_absent(const std::filesystem::path& folder,
                      std::initializer_list<const char*> names) {
  for (const auto* name : names) {
    const auto file = folder / name;
    if (::access(file.c_str(), F_OK) == 0) {
      return fail(ErrorKind::kFailed, "{} is there already, and is not overwritten", file.string());
    }
  }
  return success();
}

Result<PrivateKey> make_key() {
  PrivateKey key(EVP_EC_gen("P-256"), &EVP_PKEY_free);
  if (!key) return fail(openssl_error("a key"));
  return key;
}

bool set_random_serial(X509& certificate) {
  const std::unique_ptr<BIGNUM, decltype(&BN_free)> serial(BN_new(), &BN_free);
  return serial != nullptr &&
         BN_rand(serial.get(), kSerialBits, BN_RAND_TOP_ONE, BN_RAND_BOTTOM_ANY) == 1 &&
         BN_to_ASN1_INTEGER(serial.get(), X509_get_serialNumber(&certificate)) != nullptr;
}

bool add_extension(X509& certificate, X509& issuer, int nid, const std::string& value) {
  X509V3_CTX context;
  X509V3_set_ctx_nodb(&context);
  X509V3_set_ctx(&context, &issuer, &certificate, nullptr, nullptr, 0);
  const std::unique_ptr<X509_EXTENSION, decltype(&X509_EXTENSION_free)> extension(
      X509V3_EXT_conf_nid(nullptr, &context, nid, value.c_str()), &X509_EXTENSION_free);
  return extension != nullptr && X509_add_ext(&certificate, extension.get(), -1) == 1;
}

// The names that count are elsewhere: this one may have no more than 64 characters.
bool set_subject(X509& certificate, const std::string& name) {
  const std::string common = name.substr(0, ub_common_name);
  const auto* bytes = reinterpret_cast<const unsigned char*>(common.c_str());
  return X509_NAME_add_entry_by_NID(X509_get_subject_name(&certificate), NID_commonName,
                                    MBSTRING_ASC, const_cast<unsigned char*>(bytes), -1, -1,
                                    0) == 1;
}

struct Extension {
  int nid;
  std::string value;
};

// Signed by issuer's key; of its own where there is no issuer.
Result<Certificate> make_certificate(const std::string& subject, const PrivateKey& key,
                                     X509* issuer, const PrivateKey& issuer_key, Validity validity,
                                     const std::vector<Extension>& extensions) {
  Certificate certificate(X509_new(), &X509_free);
  auto* x509 = certificate.get();
  bool good = x509 != nullptr && X509_set_version(x509, X509_VERSION_3) == 1 &&
              set_random_serial(*x509) && set_subject(*x509, subject) &&
              X509_set_pubkey(x509, key.get()) == 1 &&
              ASN1_TIME_set(X509_getm_notBefore(x509), validity.from) != nullptr &&
              ASN1_TIME_set(X509_getm_notAfter(x509), validity.until) != nullptr;
  if (issuer == nullptr) issuer = x509;
  good = good && X509_set_issuer_name(x509, X509_get_subject_name(issuer)) == 1;
  for (const auto& [nid, value] : extensions) {
    good = good && add_extension(*x509, *issuer, nid, value);
  }
  if (!good || X509_sign(x509, issuer_key.get(), EVP_sha256()) == 0) {
    return fail(openssl_error("a certificate"));
  }
  return certificate;
}

struct Authority {
  Certificate certificate;
  PrivateKey key;
};

Result<Authority> load_authority(const std::filesystem::path& folder) {
  const std::string key_file = folder / kCaKeyFile;
  if (::access(key_file.c_str(), F_OK) != 0 && errno == ENOENT) {
    return fail(ErrorKind::kUsage, "there is no {}: this is done where the CA was made", key_file);
  }
  TRY(const auto pem, read_tls_file(folder / kCaFile));
  TRY(const auto certificates, parse_certificates(pem, folder / kCaFile));
  TRY(const auto key_pem, read_key_file(key_file));
  TRY(auto key, parse_private_key(key_pem, key_file));
  // Its own is the one of them that fits: others may be of CAs before or after it.
  for (const auto& certificate : certificates) {
    if (X509_check_private_key(certificate.get(), key.get()) == 1) {
      return Authority{certificate, std::move(key)};
    }
  }
  ERR_clear_error();
  return fail(ErrorKind::kUsage, "{} is not the key of {}", key_file, (folder / kCaFile).string());
}

Result<> check_name(const std::string& name) {
  if (is_host_name(name)) return success();
  return fail(ErrorKind::kUsage, "'{}' is no host name, which a certificate is for", name);
}

// A key and certificate of a host, and the CA's note of that.
Result<> issue_into(const std::filesystem::path& folder, const Authority& authority,
                    const std::string& name, const std::filesystem::path& out, Validity validity) {
  const auto end = describe(*authority.certificate).valid_until;
  if (validity.from >= end) {
    return fail(ErrorKind::kFailed, "the CA in {} has expired", folder.string());
  }
  validity.until = std::min(validity.until, end);
  TRY(const auto key, make_key());
  TRY(const auto certificate,
      make_certificate(name, key, authority.certificate.get(), authority.key, validity,
                       {{NID_basic_constraints, "critical,CA:FALSE"},
                        {NID_key_usage, "critical,digitalSignature"},
                        {NID_ext_key_usage, "serverAuth,clientAuth"},
                        {NID_subject_key_identifier, "hash"},
                        {NID_authority_key_identifier, "keyid"},
                        {NID_subject_alt_name, "DNS:" + name}}));
  // Noted first: what is not noted cannot be revoked by name.
  TRY(const auto notes, open_file(folder / kIssuedFile, O_WRONLY | O_CREAT | O_APPEND, 0600));
  const auto pem = to_pem(certificate);
  TRY(write_all(notes, std::as_bytes(std::span(pem)), kIssuedFile));
  TRY(write_new(out / kKeyFile, to_pem(key), 0600));
  return write_new(out / kCertificateFile, pem, 0644);
}

// The list of a folder, or a new one that revokes nobody.
Result<RevocationList> revocation_list(const std::filesystem::path& folder,
                                       const Authority& authority) {
  const auto file = folder / kRevocationFile;
  if (::access(file.c_str(), F_OK) == 0) {
    TRY(const auto pem, read_tls_file(file));
    return parse_revocation_list(pem, file);
  }
  RevocationList list(X509_CRL_new(), &X509_CRL_free);
  if (!list || X509_CRL_set_version(list.get(), X509_CRL_VERSION_2) != 1 ||
      X509_CRL_set_issuer_name(list.get(), X509_get_subject_name(authority.certificate.get())) !=
          1) {
    return fail(openssl_error("a revocation list"));
  }
  return list;
}

bool is_revoked(X509_CRL& list, X509& certificate) {
  X509_REVOKED* entry = nullptr;
  return X509_CRL_get0_by_cert(&list, &entry, &certificate) == 1;
}

bool add_entry(X509_CRL& list, X509& certificate, std::time_t now) {
  const std::unique_ptr<ASN1_TIME, decltype(&ASN1_TIME_free)> time(ASN1_TIME_set(nullptr, now),
                                                                   &ASN1_TIME_free);
  X509_REVOKED* entry = X509_REVOKED_new();
  if (entry != nullptr && time &&
      X509_REVOKED_set_serialNumber(entry, X509_get_serialNumber(&certificate)) == 1 &&
      X509_REVOKED_set_revocationDate(entry, time.get()) == 1 &&
      X509_CRL_add0_revoked(&list, entry) == 1) {
    return true;
  }
  X509_REVOKED_free(entry);
  return false;
}

Result<std::string> sign_list(X509_CRL& list, const Authority& authority, std::time_t now) {
  const std::unique_ptr<ASN1_TIME, decltype(&ASN1_TIME_free)> time(ASN1_TIME_set(nullptr, now),
                                                                   &ASN1_TIME_free);
  // Nobody publishes lists, so none is replaced by the day it would have to be.
  const bool good =
      time && X509_CRL_set1_lastUpdate(&list, time.get()) == 1 &&
      X509_CRL_set1_nextUpdate(&list, X509_get0_notAfter(authority.certificate.get())) == 1 &&
      X509_CRL_sort(&list) == 1 && X509_CRL_sign(&list, authority.key.get(), EVP_sha256()) != 0;
  if (!good) return fail(openssl_error("a revocation list"));
  return to_pem([&](BIO* out) { return PEM_write_bio_X509_CRL(out, &list); });
}

}  // namespace

Validity default_validity(std::time_t now) {
  return {now - kClockSkew.count(), now + kHostLife.count()};
}

Result<> make_authority(const std::filesystem::path& folder, const std::string& name,
                        Validity validity) {
  TRY(check_name(name));
  TRY(make_folder(folder));
  TRY(check_absent(
      folder, {kCaFile, kCaKeyFile, kCertificateFile, kKeyFile, kRevocationFile, kIssuedFile}));
  TRY(auto key, make_key());
  const Validity life{validity.from, validity.from + kAuthorityLife.count()};
  TRY(auto certificate, make_certificate("vmm CA of " + name, key, nullptr, key, life,
                                         {{NID_basic_constraints, "critical,CA:TRUE,pathlen:0"},
                                          {NID_key_usage, "critical,keyCertSign,cRLSign"},
                                          {NID_subject_key_identifier, "hash"}}));
  TRY(write_new(folder / kCaKeyFile, to_pem(key), 0600));
  TRY(write_new(folder / kCaFile, to_pem(certificate), 0644));
  return issue_into(folder, {std::move(certificate), std::move(key)}, name, folder, validity);
}

Result<> issue(const std::filesystem::path& folder, const std::string& name,
               const std::filesystem::path& out, Validity validity) {
  TRY(check_name(name));
  TRY(const auto authority, load_authority(folder));
  TRY(make_folder(out));
  TRY(check_absent(out, {kCaFile, kCertificateFile, kKeyFile, kRevocationFile}));
  TRY(issue_into(folder, authority, name, out, validity));
  for (const auto* shared : {kCaFile, kRevocationFile}) {
    if (::access((folder / shared).c_str(), F_OK) != 0) continue;
    TRY(const auto text, read_tls_file(folder / shared));
    TRY(write_new(out / shared, text, 0644));
  }
  return success();
}

Result<std::vector<CertificateInfo>> revoke(const std::filesystem::path& folder, const PeerId& whom,
                                            std::time_t now) {
  TRY(const auto authority, load_authority(folder));
  TRY(const auto notes, read_tls_file(folder / kIssuedFile));
  TRY(const auto issued, parse_certificates(notes, folder / kIssuedFile));
  TRY(const auto list, revocation_list(folder, authority));
  std::vector<CertificateInfo> revoked;
  for (const auto& certificate : issued) {
    auto info = describe(*certificate);
    if (!whom.is(info) || is_revoked(*list, *certificate)) continue;
    if (!add_entry(*list, *certificate, now)) return fail(openssl_error("a revocation list"));
    revoked.push_back(std::move(info));
  }
  if (revoked.empty()) {
    return fail(ErrorKind::kFailed, "nothing of {} to revoke was issued in {}", whom.text(),
                folder.string());
  }
  TRY(const auto pem, sign_list(*list, authority, now));
  TRY(replace(folder / kRevocationFile, pem));
  return revoked;
}

}  // namespace vmm::migration
