#include "vmm/migration_channels.h"

#include "migration/tls_channel.h"

namespace vmm {
namespace {

using migration::PeerId;
using migration::TlsIdentity;

Result<TlsIdentity> load_identity(const ChannelOptions& options) {
  if (options.tls_dir) return TlsIdentity::load(*options.tls_dir);
  TRY(const auto folder, migration::default_tls_folder());
  return TlsIdentity::load(folder);
}

// In plaintext nobody can tell who the peer is: who gives options of TLS believes otherwise.
Result<> check_plaintext(const ChannelOptions& options, bool names_peer) {
  if (!options.tls_dir && !names_peer) return success();
  return fail(ErrorKind::kUsage, "plaintext has no certificates: give --plaintext without {}",
              names_peer ? "naming the peer" : "--tls-dir");
}

}  // namespace

Result<std::unique_ptr<migration::Connector>> make_connector(
    const migration::TcpAddress& address, const ChannelOptions& options,
    const std::optional<std::string>& peer_name) {
  if (options.plaintext) {
    TRY(check_plaintext(options, peer_name.has_value()));
    return std::make_unique<migration::TcpConnector>(address);
  }
  if (!peer_name && !migration::is_host_name(address.host)) {
    return fail(ErrorKind::kUsage,
                "'{}' is no host name that a certificate could have: give --peer-name, or "
                "--plaintext on both sides",
                address.host);
  }
  auto peer = PeerId::parse(peer_name.value_or(address.host));
  if (!peer) return fail(std::move(peer).error().add_context("--peer-name"));
  TRY(auto identity, load_identity(options));
  return std::make_unique<migration::TlsConnector>(address, std::move(identity),
                                                   std::move(peer).value());
}

Result<std::unique_ptr<migration::Acceptor>> make_acceptor(
    migration::TcpListener& listener, const ChannelOptions& options,
    const std::vector<std::string>& allowed) {
  if (options.plaintext) {
    TRY(check_plaintext(options, !allowed.empty()));
    return std::make_unique<migration::TcpAcceptor>(listener);
  }
  if (allowed.empty()) {
    return fail(
        ErrorKind::kUsage,
        "no host may bring a guest here: name one with --allow-peer, or give --plaintext on "
        "both sides");
  }
  std::vector<PeerId> peers;
  for (const auto& one : allowed) {
    auto peer = PeerId::parse(one);
    if (!peer) return fail(std::move(peer).error().add_context("--allow-peer"));
    peers.push_back(std::move(peer).value());
  }
  TRY(auto identity, load_identity(options));
  return std::make_unique<migration::TlsAcceptor>(listener, std::move(identity), std::move(peers));
}

}  // namespace vmm
