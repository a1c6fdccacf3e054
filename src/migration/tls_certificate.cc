#include "migration/tls_certificate.h"

#include <arpa/inet.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include <algorithm>
#include <array>

#include "migration/peer_text.h"

namespace vmm::migration {
namespace {

constexpr std::size_t kMaxNames = 16;
constexpr std::size_t kMaxHostName = 253;
constexpr std::size_t kMaxLabel = 63;
constexpr std::size_t kFingerprintDigits = 64;
constexpr std::size_t kShownDigits = 16;

std::string lower(std::string_view text) {
  std::string result(text);
  for (char& c : result) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return result;
}

bool is_hex(char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
}

std::string text_of(const ASN1_STRING* string) {
  const auto* data = reinterpret_cast<const char*>(ASN1_STRING_get0_data(string));
  const auto size = std::min(static_cast<std::size_t>(ASN1_STRING_length(string)), kMaxHostName);
  return printable(lower({data, size}));
}

std::time_t time_of(const ASN1_TIME* time) {
  std::tm fields{};
  return ASN1_TIME_to_tm(time, &fields) == 1 ? ::timegm(&fields) : 0;
}

std::unique_ptr<BIO, decltype(&BIO_free)> reader(const std::string& pem) {
  return {BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())), &BIO_free};
}

}  // namespace

std::string openssl_reason() {
  const unsigned long error = ERR_peek_last_error();
  const char* reason = ERR_reason_error_string(error);
  ERR_clear_error();
  return reason != nullptr ? reason : fmt::format("error {:#x}", error);
}

std::string CertificateInfo::text() const {
  std::string who = subject;
  if (!names.empty()) who = names.front();
  return fmt::format("{} (SHA-256 {}…)", who.empty() ? "somebody without a name" : who,
                     fingerprint.substr(0, kShownDigits));
}

CertificateInfo describe(x509_st& certificate) {
  CertificateInfo info;
  const std::unique_ptr<GENERAL_NAMES, decltype(&GENERAL_NAMES_free)> names(
      static_cast<GENERAL_NAMES*>(
          X509_get_ext_d2i(&certificate, NID_subject_alt_name, nullptr, nullptr)),
      &GENERAL_NAMES_free);
  const int count = names ? sk_GENERAL_NAME_num(names.get()) : 0;
  for (int i = 0; i < count && info.names.size() < kMaxNames; ++i) {
    const auto* name = sk_GENERAL_NAME_value(names.get(), i);
    if (name->type == GEN_DNS) info.names.push_back(text_of(name->d.dNSName));
  }
  X509_NAME* subject = X509_get_subject_name(&certificate);
  const int at = X509_NAME_get_index_by_NID(subject, NID_commonName, -1);
  if (at >= 0) {
    info.subject = text_of(X509_NAME_ENTRY_get_data(X509_NAME_get_entry(subject, at)));
  }
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
  unsigned size = 0;
  if (X509_digest(&certificate, EVP_sha256(), digest.data(), &size) == 1) {
    for (unsigned i = 0; i < size; ++i) info.fingerprint += fmt::format("{:02x}", digest[i]);
  }
  info.valid_from = time_of(X509_get0_notBefore(&certificate));
  info.valid_until = time_of(X509_get0_notAfter(&certificate));
  return info;
}

bool is_host_name(std::string_view text) {
  in_addr address{};
  if (text.empty() || text.size() > kMaxHostName ||
      ::inet_pton(AF_INET, std::string(text).c_str(), &address) == 1) {
    return false;
  }
  std::size_t label = 0;
  char before = '.';
  for (const char c : text) {
    if (c == '.') {
      if (label == 0 || before == '-') return false;
      label = 0;
    } else {
      const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
      if (!letter && (c < '0' || c > '9') && (c != '-' || label == 0)) return false;
      if (++label > kMaxLabel) return false;
    }
    before = c;
  }
  return label > 0 && before != '-';
}

Result<PeerId> PeerId::parse(std::string_view text) {
  std::string id = lower(text);
  std::string digits = id;
  std::erase(digits, ':');
  if (digits.size() == kFingerprintDigits && std::ranges::all_of(digits, is_hex)) {
    return PeerId(std::move(digits));
  }
  if (is_host_name(id)) return PeerId(std::move(id));
  return fail(ErrorKind::kUsage,
              "'{}' is no peer: want a host name, or a SHA-256 fingerprint (vmm tls show)", text);
}

bool PeerId::is(const CertificateInfo& info) const {
  return text_ == info.fingerprint || std::ranges::find(info.names, text_) != info.names.end();
}

Result<std::vector<Certificate>> parse_certificates(const std::string& pem,
                                                    const std::string& file) {
  ERR_clear_error();
  std::vector<Certificate> certificates;
  const auto input = reader(pem);
  while (X509* one = PEM_read_bio_X509(input.get(), nullptr, nullptr, nullptr)) {
    certificates.emplace_back(one, &X509_free);
  }
  const auto reason = ERR_GET_REASON(ERR_peek_last_error());
  if (certificates.empty() || reason != PEM_R_NO_START_LINE) {
    return fail(ErrorKind::kUsage, "{} is no certificate: {}", file, openssl_reason());
  }
  ERR_clear_error();
  return certificates;
}

Result<RevocationList> parse_revocation_list(const std::string& pem, const std::string& file) {
  ERR_clear_error();
  RevocationList list(PEM_read_bio_X509_CRL(reader(pem).get(), nullptr, nullptr, nullptr),
                      &X509_CRL_free);
  if (!list) {
    return fail(ErrorKind::kUsage, "{} is no revocation list: {}", file, openssl_reason());
  }
  return list;
}

Result<PrivateKey> parse_private_key(const std::string& pem, const std::string& file) {
  ERR_clear_error();
  // One that is encrypted is not asked a passphrase for.
  const auto no_passphrase = [](char*, int, int, void*) { return -1; };
  PrivateKey key(PEM_read_bio_PrivateKey(reader(pem).get(), nullptr, no_passphrase, nullptr),
                 &EVP_PKEY_free);
  if (!key) {
    return fail(ErrorKind::kUsage, "{} is no private key: {}", file, openssl_reason());
  }
  return key;
}

}  // namespace vmm::migration
