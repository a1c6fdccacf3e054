#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "migration/channel.h"
#include "migration/tcp_channel.h"

namespace vmm {

// How the operator wants a migration's connections.
struct ChannelOptions {
  bool plaintext = false;
  std::optional<std::filesystem::path> tls_dir;  // else migration::default_tls_folder()
};

// Connections to a destination, which has to be the host `peer_name` (a name or fingerprint), or
// where there is none the one that the address names. Errors (kUsage): an address without a name,
// what TlsIdentity::load() says, TLS options with plaintext.
[[nodiscard]] Result<std::unique_ptr<migration::Connector>> make_connector(
    const migration::TcpAddress& address, const ChannelOptions& options,
    const std::optional<std::string>& peer_name);

// Connections of sources that are among `allowed` (names or fingerprints); the listener must
// outlive it. Errors (kUsage): nobody is allowed, and as above.
[[nodiscard]] Result<std::unique_ptr<migration::Acceptor>> make_acceptor(
    migration::TcpListener& listener, const ChannelOptions& options,
    const std::vector<std::string>& allowed);

}  // namespace vmm
