#pragma once

#include <ctime>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

struct evp_pkey_st;
struct X509_crl_st;
struct x509_st;

namespace vmm::migration {

// OpenSSL's objects, which count references.
using Certificate = std::shared_ptr<x509_st>;
using RevocationList = std::shared_ptr<X509_crl_st>;
using PrivateKey = std::shared_ptr<evp_pkey_st>;

// What identifies the owner of a certificate. Names are lower case and printable.
struct CertificateInfo {
  std::vector<std::string> names;  // SAN dNSNames, the first 16
  std::string subject;             // common name; empty where there is none
  std::string fingerprint;         // SHA-256 of the whole, 64 hexadecimal digits
  std::time_t valid_from = 0;
  std::time_t valid_until = 0;

  // "host2 (SHA-256 0123456789abcdef…)", for messages.
  [[nodiscard]] std::string text() const;
};
// Times that cannot be represented are 0.
[[nodiscard]] CertificateInfo describe(x509_st& certificate);

// A peer as an operator names it: by host name, or by the fingerprint of its certificate.
class PeerId {
 public:
  // Fingerprints are 64 hexadecimal digits, with or without colons. Error (kUsage) for what is
  // neither that nor a host name.
  [[nodiscard]] static Result<PeerId> parse(std::string_view text);

  [[nodiscard]] bool is(const CertificateInfo& info) const;
  [[nodiscard]] const std::string& text() const { return text_; }

 private:
  explicit PeerId(std::string text) : text_(std::move(text)) {}

  std::string text_;  // lower case; no host name has as many characters as a fingerprint
};

// Whether a certificate can carry it: labels of letters, digits and inner '-', not an IP address.
[[nodiscard]] bool is_host_name(std::string_view text);

// From PEM, of at most kMaxPem bytes. Errors (kUsage) name the file.
inline constexpr std::size_t kMaxPem = 1U << 20;
[[nodiscard]] Result<std::vector<Certificate>> parse_certificates(const std::string& pem,
                                                                  const std::string& file);
[[nodiscard]] Result<RevocationList> parse_revocation_list(const std::string& pem,
                                                           const std::string& file);
[[nodiscard]] Result<PrivateKey> parse_private_key(const std::string& pem, const std::string& file);

// What OpenSSL last complained about in this thread, which it then forgets.
[[nodiscard]] std::string openssl_reason();

}  // namespace vmm::migration
