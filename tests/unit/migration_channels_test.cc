#include "vmm/migration_channels.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tls_support.h"

namespace vmm {
namespace {

using migration::TcpAddress;
using migration::TcpListener;

class MigrationChannelsTest : public ::testing::Test {
 protected:
  [[nodiscard]] ChannelOptions tls(const std::string& host) const {
    return {false, hosts_.of(host)};
  }

  migration::TlsHosts hosts_;
  TcpListener listener_ = TcpListener::listen({"127.0.0.1", 0}).value();
  TcpAddress address_ = listener_.address();
};

TEST_F(MigrationChannelsTest, TheDestinationIsWhoItIsCalledOrThePeerNamed) {
  expect_error(make_connector(address_, tls("here"), {}), ErrorKind::kUsage,
               "'127.0.0.1' is no host name that a certificate could have: give --peer-name");
  expect_error(make_connector(address_, tls("here"), "10.0.0.1"), ErrorKind::kUsage,
               "--peer-name: '10.0.0.1' is no peer");
  auto acceptor = make_acceptor(listener_, tls("there"), {"here"});
  ASSERT_TRUE(acceptor) << acceptor.error().message();
  for (const auto& [address, name, good] :
       {std::tuple(address_, std::optional<std::string>("there"), true),
        std::tuple(TcpAddress{"localhost", address_.port}, std::optional<std::string>(), false)}) {
    auto connector = make_connector(address, tls("here"), name);
    ASSERT_TRUE(connector) << connector.error().message();
    auto ours = connector.value()->connect(migration::kLong).value();
    auto theirs = acceptor.value()->accept(migration::kLong).value();
    std::byte byte{};
    std::jthread other([&] {
      std::byte got{};
      EXPECT_EQ(bool(migration::read_bytes(*theirs, {&got, 1})), good);
    });
    const auto written = migration::write_bytes(*ours, {&byte, 1});
    if (good) {
      EXPECT_TRUE(written) << written.error().message();
    } else {
      expect_error(written, ErrorKind::kMigration, "and not localhost");
    }
  }
}

TEST_F(MigrationChannelsTest, SomebodyHasToBeAllowed) {
  expect_error(make_acceptor(listener_, tls("there"), {}), ErrorKind::kUsage, "--allow-peer");
  expect_error(make_acceptor(listener_, tls("there"), {"here", "*"}), ErrorKind::kUsage,
               "--allow-peer: '*' is no peer");
}

TEST_F(MigrationChannelsTest, WithoutCertificatesThereIsNoTls) {
  const auto words = "there is no " + (hosts_.of("nobody") / migration::kCertificateFile).string();
  expect_error(make_acceptor(listener_, tls("nobody"), {"here"}), ErrorKind::kUsage, words);
  expect_error(make_connector(address_, tls("nobody"), "there"), ErrorKind::kUsage, words);
}

TEST_F(MigrationChannelsTest, PlaintextKnowsNobody) {
  const ChannelOptions plaintext{true, {}};
  EXPECT_TRUE(make_connector(address_, plaintext, {}));
  EXPECT_TRUE(make_acceptor(listener_, plaintext, {}));
  expect_error(make_acceptor(listener_, plaintext, {"here"}), ErrorKind::kUsage, "without naming");
  expect_error(make_connector(address_, plaintext, "there"), ErrorKind::kUsage, "without naming");
  expect_error(make_connector(address_, {true, hosts_.of("here")}, {}), ErrorKind::kUsage,
               "without --tls-dir");
}

}  // namespace
}  // namespace vmm
