#include "migration/tls_authority.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include "tls_support.h"

namespace vmm::migration {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr std::time_t kDay = 24 * 3600;

unsigned mode_of(const std::filesystem::path& file) {
  struct stat info {};
  EXPECT_EQ(::stat(file.c_str(), &info), 0) << file;
  return info.st_mode & 07777;
}

void expect_unusable(const std::filesystem::path& folder, std::string_view words) {
  expect_error(TlsIdentity::load(folder), ErrorKind::kUsage, words);
}

TEST(PeerIdTest, IsAHostNameOrAFingerprint) {
  const std::string digits(64, 'a');
  EXPECT_EQ(peer_id("Host-2.Example").text(), "host-2.example");
  EXPECT_EQ(peer_id(std::string(64, 'A')).text(), digits);
  std::string with_colons = "AA";
  for (int i = 1; i < 32; ++i) with_colons += ":AA";
  EXPECT_EQ(peer_id(with_colons).text(), digits);
  for (const auto& text :
       {std::string(), std::string("10.77.0.2"), std::string("::1"), std::string("a b"),
        std::string("-a"), std::string("a-"), std::string("a..b"), std::string("a."),
        std::string("*.example"), digits + "a", std::string("a,DNS:b")}) {
    expect_error(PeerId::parse(text), ErrorKind::kUsage, "'" + text + "' is no peer");
  }
}

TEST(PeerIdTest, IsWhoeverHasTheNameOrTheCertificate) {
  const CertificateInfo info{{"a", "b"}, "c", std::string(64, '1'), 0, 0};
  EXPECT_TRUE(peer_id("B").is(info));
  EXPECT_TRUE(peer_id(info.fingerprint).is(info));
  EXPECT_FALSE(peer_id("c").is(info)) << "only names that are meant as such count";
  EXPECT_FALSE(peer_id(std::string(64, '2')).is(info));
}

TEST(TlsAuthorityTest, MakesWhatHostsNeed) {
  const TlsHosts hosts;
  const auto here = hosts.identity("here").info();
  const auto there = hosts.identity("there").info();
  EXPECT_THAT(here.names, ElementsAre("here"));
  EXPECT_THAT(there.names, ElementsAre("there"));
  EXPECT_EQ(there.fingerprint.size(), 64u);
  EXPECT_NE(there.fingerprint, here.fingerprint);
  EXPECT_EQ(mode_of(hosts.authority()), 0700u);
  for (const auto* name : {kKeyFile, kCaKeyFile})
    EXPECT_EQ(mode_of(hosts.authority() / name), 0600u);
  EXPECT_EQ(mode_of(hosts.of("there") / kKeyFile), 0600u);
  EXPECT_FALSE(std::filesystem::exists(hosts.of("there") / kCaKeyFile)) << "it stays where it is";
}

TEST(TlsAuthorityTest, OverwritesNothing) {
  const TlsHosts hosts;
  const auto validity = default_validity(std::time(nullptr));
  const auto before = contents_of(hosts.authority() / kCaKeyFile);
  expect_error(make_authority(hosts.authority(), "here", validity), ErrorKind::kFailed,
               "is there already");
  expect_error(issue(hosts.authority(), "there", hosts.of("there"), validity), ErrorKind::kFailed,
               "is there already");
  EXPECT_EQ(contents_of(hosts.authority() / kCaKeyFile), before);
}

TEST(TlsAuthorityTest, RefusesWhatIsNoHostName) {
  const TlsHosts hosts;
  const auto validity = default_validity(std::time(nullptr));
  for (const auto* name : {"", "10.77.0.2", "a,DNS:b", "a/b", "*"}) {
    expect_error(issue(hosts.authority(), name, hosts.of("new"), validity), ErrorKind::kUsage,
                 fmt::format("'{}' is no host name", name));
  }
  EXPECT_FALSE(std::filesystem::exists(hosts.of("new")));
}

TEST(TlsAuthorityTest, OnlyWhereTheCaIs) {
  const TlsHosts hosts;
  expect_error(issue(hosts.of("there"), "third", hosts.of("third"), {}), ErrorKind::kUsage,
               "done where the CA was made");
  expect_error(revoke(hosts.of("there"), peer_id("here"), 0), ErrorKind::kUsage,
               "done where the CA was made");
}

TEST(TlsAuthorityTest, RevokesByNameAndByFingerprint) {
  TlsHosts hosts;
  const auto now = std::time(nullptr);
  const auto first = hosts.identity("there").info().fingerprint;
  std::filesystem::rename(hosts.of("there"), hosts.of("old"));
  hosts.add("there");
  const auto by_fingerprint = revoke(hosts.authority(), peer_id(first), now);
  ASSERT_TRUE(by_fingerprint) << by_fingerprint.error().message();
  ASSERT_EQ(by_fingerprint.value().size(), 1u);
  for (const auto* host : {"there", "old"}) hosts.copy_revocations(host);
  EXPECT_TRUE(TlsIdentity::load(hosts.of("there"))) << "it has another certificate by now";
  expect_unusable(hosts.of("old"), "has been revoked");
  const auto by_name = revoke(hosts.authority(), peer_id("there"), now);
  ASSERT_TRUE(by_name) << by_name.error().message();
  EXPECT_EQ(by_name.value().size(), 1u) << "the other is revoked already";
  for (const auto* host : {"there", "old"}) hosts.copy_revocations(host);
  expect_unusable(hosts.of("there"), "has been revoked");
  expect_unusable(hosts.of("old"), "has been revoked");
  expect_error(revoke(hosts.authority(), peer_id("there"), now), ErrorKind::kFailed, "nothing of");
  expect_error(revoke(hosts.authority(), peer_id("nobody"), now), ErrorKind::kFailed, "nothing of");
  EXPECT_TRUE(TlsIdentity::load(hosts.authority()));
  EXPECT_TRUE(std::filesystem::exists(hosts.add("new") / kRevocationFile)) << "it comes along";
}

TEST(TlsIdentityTest, NamesTheFileThatIsMissing) {
  for (const auto* name : {kCertificateFile, kKeyFile, kCaFile}) {
    const TlsHosts hosts;
    std::filesystem::remove(hosts.of("there") / name);
    expect_unusable(hosts.of("there"),
                    fmt::format("there is no {}", (hosts.of("there") / name).string()));
  }
}

TEST(TlsIdentityTest, NamesTheFileThatIsSomethingElse) {
  for (const auto* name : {kCertificateFile, kKeyFile, kCaFile, kRevocationFile}) {
    const TlsHosts hosts;
    const auto file = hosts.of("there") / name;
    std::ofstream(file) << "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    expect_unusable(hosts.of("there"), file.string() + " is no ");
  }
}

TEST(TlsIdentityTest, TheKeyIsForItsOwnerAlone) {
  const TlsHosts hosts;
  const auto key = hosts.of("there") / kKeyFile;
  for (const unsigned mode : {0640u, 0604u, 0620u}) {
    ASSERT_EQ(::chmod(key.c_str(), mode), 0);
    expect_unusable(hosts.of("there"), fmt::format("has mode {:04o}: chmod 600 it", mode));
  }
  ASSERT_EQ(::chmod(key.c_str(), 0400), 0);
  EXPECT_TRUE(TlsIdentity::load(hosts.of("there")));
}

TEST(TlsIdentityTest, TheKeyFitsTheCertificate) {
  const TlsHosts hosts;
  std::filesystem::copy_file(hosts.authority() / kKeyFile, hosts.of("there") / kKeyFile,
                             std::filesystem::copy_options::overwrite_existing);
  expect_unusable(hosts.of("there"), "is not the key of");
}

TEST(TlsIdentityTest, ThisHostsCertificateIsValidNow) {
  TlsHosts hosts;
  const auto now = std::time(nullptr);
  expect_unusable(hosts.add("past", {now - 2 * kDay, now - kDay}), "has expired");
  expect_unusable(hosts.add("future", {now + kDay, now + 2 * kDay}), "is not valid yet");
}

TEST(TlsIdentityTest, CertificateAndListAreOfThisCa) {
  const TlsHosts hosts;
  const TlsHosts others;
  ASSERT_TRUE(revoke(others.authority(), peer_id("there"), std::time(nullptr)));
  const auto list = hosts.of("there") / kRevocationFile;
  std::filesystem::copy_file(others.authority() / kRevocationFile, list);
  expect_unusable(hosts.of("there"), "is not a list of the CA");
  std::filesystem::remove(list);
  std::filesystem::copy_file(others.authority() / kCaFile, hosts.of("there") / kCaFile,
                             std::filesystem::copy_options::overwrite_existing);
  expect_unusable(hosts.of("there"), "is of a CA that is not in ca.pem");
}

}  // namespace
}  // namespace vmm::migration
