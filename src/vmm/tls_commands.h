#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "base/result.h"

namespace vmm {

// The folder that `vmm tls` works on.
struct TlsFolder {
  std::optional<std::filesystem::path> path;  // else migration::default_tls_folder()
};

// Makes a CA and a certificate for this host, by its own name where none is given.
[[nodiscard]] Result<> init_tls(const TlsFolder& folder, const std::optional<std::string>& name);
// Makes a certificate for another host, in the folder `out`; one of its name where there is none.
[[nodiscard]] Result<> issue_tls(const TlsFolder& folder, const std::string& host,
                                 const std::optional<std::filesystem::path>& out);
// Revokes what was issued for a host, or the certificate with a fingerprint.
[[nodiscard]] Result<> revoke_tls(const TlsFolder& folder, const std::string& whom);
// Prints who this host is.
[[nodiscard]] Result<> show_tls(const TlsFolder& folder, bool as_json);

}  // namespace vmm
