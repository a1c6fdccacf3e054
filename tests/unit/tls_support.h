#pragma once

#include <gtest/gtest.h>

#include <ctime>
#include <filesystem>
#include <functional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "channel_fakes.h"
#include "migration/tls_authority.h"
#include "migration/tls_channel.h"
#include "vmm_support.h"

// Hosts with certificates, and channels between them.
namespace vmm::migration {

inline PeerId peer_id(std::string_view text) {
  return PeerId::parse(text).value();
}

// The folders of a CA's own host, `here`, and of others that it issues certificates for.
class TlsHosts {
 public:
  TlsHosts() {
    EXPECT_TRUE(make_authority(authority(), "here", default_validity(std::time(nullptr))));
    add("there");
  }

  [[nodiscard]] std::filesystem::path authority() const { return folder_ / "here"; }
  [[nodiscard]] std::filesystem::path of(const std::string& host) const { return folder_ / host; }
  std::filesystem::path add(const std::string& host) {
    return add(host, default_validity(std::time(nullptr)));
  }
  std::filesystem::path add(const std::string& host, Validity validity) {
    const auto issued = issue(authority(), host, of(host), validity);
    EXPECT_TRUE(issued) << issued.error().message();
    return of(host);
  }
  [[nodiscard]] TlsIdentity identity(const std::string& host) const {
    auto loaded = TlsIdentity::load(of(host));
    if (!loaded) ADD_FAILURE() << loaded.error().message();
    return loaded.value();
  }
  // The list of the CA gets to a host.
  void copy_revocations(const std::string& host) const {
    std::filesystem::copy_file(authority() / kRevocationFile, of(host) / kRevocationFile,
                               std::filesystem::copy_options::overwrite_existing);
  }

 private:
  TempDir folder_;
};

// Of the error, if there is one.
template <typename R>
std::string message_of(const R& result) {
  return result ? "" : result.error().message();
}

using Sockets = std::pair<std::unique_ptr<TcpSocket>, std::unique_ptr<TcpSocket>>;

// Both ends of a connection over loopback: who connects first.
inline Sockets socket_pair(std::chrono::milliseconds timeout = kLong) {
  auto listener = TcpListener::listen({"127.0.0.1", 0}).value();
  auto ours = tcp_connect(listener.address(), timeout).value();
  return {std::move(ours), listener.accept(timeout).value()};
}

// Channels from `here`, the source, to `there`.
struct TlsPairs {
  TlsPairs(const TlsHosts& hosts, int count, std::uint64_t records_per_key = kRecordsPerKey) {
    for (int i = 0; i < count; ++i) {
      auto [ours_end, theirs_end] = socket_pair();
      ours.push_back(TlsChannel::create(std::move(ours_end), hosts.identity("here"),
                                        TlsSide::kSource, {peer_id("there")}, records_per_key)
                         .value());
      theirs.push_back(TlsChannel::create(std::move(theirs_end), hosts.identity("there"),
                                          TlsSide::kDestination, {peer_id("here")}, records_per_key)
                           .value());
    }
  }
  // Both ends know each other afterwards.
  void greet() {
    for (std::size_t i = 0; i < ours.size(); ++i) {
      std::byte byte{1};
      std::jthread other([&, i] {
        std::byte got{};
        EXPECT_TRUE(read_bytes(*theirs[i], {&got, 1}));
        EXPECT_TRUE(write_bytes(*theirs[i], {&got, 1}));
      });
      EXPECT_TRUE(write_bytes(*ours[i], {&byte, 1}));
      EXPECT_TRUE(read_bytes(*ours[i], {&byte, 1}));
    }
  }
  Channels ours;
  Channels theirs;
};

}  // namespace vmm::migration
