#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "migration/tls_certificate.h"

struct ssl_ctx_st;
struct x509_store_st;

namespace vmm::migration {

// Files of a TLS folder (docs/vmm.1.md).
inline constexpr const char* kCaFile = "ca.pem";
inline constexpr const char* kCaKeyFile = "ca-key.pem";
inline constexpr const char* kCertificateFile = "cert.pem";
inline constexpr const char* kKeyFile = "key.pem";
inline constexpr const char* kRevocationFile = "crl.pem";

// Who this host is to its peers, and whom it can believe: certificate, key, CA and revocation list
// of a folder. Cheap to copy; threads: any.
class TlsIdentity {
 public:
  // Errors (kUsage), each naming the file: missing, not readable, a key that others may read or
  // that is of another certificate; this host's own certificate has expired, is not valid yet, has
  // been revoked, or is not of this CA; a revocation list of another CA.
  [[nodiscard]] static Result<TlsIdentity> load(const std::filesystem::path& folder);

  [[nodiscard]] const CertificateInfo& info() const { return info_; }
  // Settings of every connection: TLS 1.3 alone, both sides with certificates, no resumption.
  [[nodiscard]] ssl_ctx_st* context() const { return context_.get(); }

 private:
  TlsIdentity(std::shared_ptr<ssl_ctx_st> context, CertificateInfo info)
      : context_(std::move(context)), info_(std::move(info)) {}

  std::shared_ptr<ssl_ctx_st> context_;
  CertificateInfo info_;
};

// $XDG_CONFIG_HOME/vmm/tls, else /etc/vmm/tls (root) or ~/.config/vmm/tls. Error (kHost) where
// neither variable is set.
[[nodiscard]] Result<std::filesystem::path> default_tls_folder();

// A file of the folder; error (kUsage) that says how to get one where it is missing.
[[nodiscard]] Result<std::string> read_tls_file(const std::filesystem::path& file);
// The same for a private key, which nobody but its owner may read.
[[nodiscard]] Result<std::string> read_key_file(const std::filesystem::path& file);

// "has expired", and so on: what a verification (X509_V_ERR_…) found wrong with a certificate.
[[nodiscard]] std::string verification_failure(int error);

}  // namespace vmm::migration
