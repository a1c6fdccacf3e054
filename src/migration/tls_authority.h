#pragma once

#include <ctime>
#include <filesystem>
#include <string>
#include <vector>

#include "base/result.h"
#include "migration/tls_certificate.h"

namespace vmm::migration {

// When a certificate is valid.
struct Validity {
  std::time_t from = 0;
  std::time_t until = 0;
};
// From an hour before now, for clocks that differ, for two years.
[[nodiscard]] Validity default_validity(std::time_t now);

// Makes a CA, and a key and certificate for this host, `name`, in a folder, which it creates. Error
// (kUsage) for a name that is none, (kFailed) where there is anything of that kind already.
[[nodiscard]] Result<> make_authority(const std::filesystem::path& folder, const std::string& name,
                                      Validity validity);

// Makes a key and certificate for a host of the CA in `folder`, and puts them into the folder
// `out`, with the CA's certificate and revocation list. Nothing is overwritten.
[[nodiscard]] Result<> issue(const std::filesystem::path& folder, const std::string& name,
                             const std::filesystem::path& out, Validity validity);

// Adds all certificates of a host, or the one with a fingerprint, to the revocation list of the CA
// in `folder`, as far as they were issued there. Returns what was added; error (kFailed) where that
// is nothing.
[[nodiscard]] Result<std::vector<CertificateInfo>> revoke(const std::filesystem::path& folder,
                                                          const PeerId& whom, std::time_t now);

}  // namespace vmm::migration
