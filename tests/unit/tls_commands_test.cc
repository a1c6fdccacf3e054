#include "vmm/tls_commands.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>

#include "migration/tls_identity.h"
#include "vmm_support.h"

namespace vmm {
namespace {

namespace json = boost::json;
using ::testing::HasSubstr;

class TlsCommandsTest : public ::testing::Test {
 protected:
  // What a command prints.
  template <typename Command>
  static std::string printed(Command command) {
    ::testing::internal::CaptureStdout();
    const auto result = command();
    ::fflush(stdout);
    const auto text = ::testing::internal::GetCapturedStdout();
    EXPECT_TRUE(result) << result.error().message();
    return text;
  }

  TempDir dir_;
  TlsFolder folder_{dir_ / "ca"};
};

TEST_F(TlsCommandsTest, AHostIsMadeIssuedForShownAndRevoked) {
  EXPECT_THAT(printed([&] { return init_tls(folder_, "One"); }), HasSubstr("name         one\n"));
  const auto out = dir_ / "two";
  EXPECT_THAT(printed([&] { return issue_tls(folder_, "two", out); }), HasSubstr(out.string()));
  const auto shown = json::parse(printed([&] { return show_tls({out}, true); })).as_object();
  EXPECT_EQ(json::serialize(shown.at("names")), "[\"two\"]");
  EXPECT_EQ(shown.at("role"), "host");
  EXPECT_EQ(shown.at("fingerprint"),
            json::value(migration::TlsIdentity::load(out).value().info().fingerprint));
  EXPECT_LT(shown.at("valid_from").as_int64(), shown.at("valid_until").as_int64());
  const auto text = printed([&] { return show_tls(folder_, false); });
  EXPECT_THAT(text, HasSubstr("role         host and CA\n"));
  const auto fingerprint = std::string(shown.at("fingerprint").as_string());
  EXPECT_THAT(printed([&] { return revoke_tls(folder_, fingerprint); }),
              HasSubstr("revoked two (SHA-256 " + fingerprint.substr(0, 16)));
  EXPECT_TRUE(std::filesystem::exists(*folder_.path / migration::kRevocationFile));
}

TEST_F(TlsCommandsTest, MistakesAreTold) {
  expect_error(show_tls(folder_, false), ErrorKind::kUsage, "there is no");
  expect_error(init_tls(folder_, "10.0.0.1"), ErrorKind::kUsage, "'10.0.0.1' is no host name");
  expect_error(revoke_tls(folder_, "a b"), ErrorKind::kUsage, "'a b' is no peer");
  expect_error(issue_tls(folder_, "two", dir_ / "two"), ErrorKind::kUsage, "where the CA was made");
}

}  // namespace
}  // namespace vmm
