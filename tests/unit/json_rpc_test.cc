#include "vmm/json_rpc.h"

#include <boost/json/array.hpp>
#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>

#include "vmm_support.h"

namespace vmm {
namespace {

namespace json = boost::json;

TEST(JsonRpcTest, TakesRequests) {
  const auto request =
      parse_rpc_request(R"({"jsonrpc":"2.0","id":7,"method":"guest.info","params":{"a":[1]}})");
  ASSERT_TRUE(request) << request.error().message;
  EXPECT_EQ(request.value().id, 7);
  EXPECT_EQ(request.value().method, "guest.info");
  EXPECT_EQ(json::serialize(request.value().params), R"({"a":[1]})");
}

TEST(JsonRpcTest, IdAndParametersMayBeLeftOut) {
  const auto request = parse_rpc_request("{\"jsonrpc\":\"2.0\",\"method\":\"x\"}\n");
  ASSERT_TRUE(request) << request.error().message;
  EXPECT_TRUE(request.value().id.is_null());
  EXPECT_TRUE(request.value().params.empty());
}

TEST(JsonRpcTest, IdsKeepTheirType) {
  for (const auto* id : {"1", "-3", R"("one")", "null", "1.5E0", "18446744073709551615"}) {
    const auto request =
        parse_rpc_request(fmt::format(R"({{"jsonrpc":"2.0","id":{},"method":"x"}})", id));
    ASSERT_TRUE(request) << id;
    EXPECT_EQ(json::serialize(request.value().id), id);
  }
}

struct Refused {
  const char* name;
  std::string line;
  int code;
  std::string id;  // in the answer
};

class RefusedRequestTest : public ::testing::TestWithParam<Refused> {};

TEST_P(RefusedRequestTest, IsAnsweredWithItsCodeAndId) {
  const auto request = parse_rpc_request(GetParam().line);
  ASSERT_FALSE(request);
  EXPECT_EQ(request.error().code, GetParam().code);
  EXPECT_FALSE(request.error().message.empty());
  EXPECT_EQ(json::serialize(request.error().id), GetParam().id);

  const auto line = format_rpc_error(request.error());
  ASSERT_EQ(line.back(), '\n');
  const auto answer = json::parse(line).as_object();
  EXPECT_EQ(answer.at("jsonrpc"), "2.0");
  EXPECT_EQ(json::serialize(answer.at("id")), GetParam().id);
  EXPECT_EQ(answer.at("error").at("code"), GetParam().code);
}

INSTANTIATE_TEST_SUITE_P(
    All, RefusedRequestTest,
    ::testing::Values(
        Refused{"empty", "", kRpcParseError, "null"},
        Refused{"blank", " \n", kRpcParseError, "null"},
        Refused{"noise", "\xff\x01garbage", kRpcParseError, "null"},
        Refused{"cut_off", R"({"jsonrpc":"2.0","method":"x")", kRpcParseError, "null"},
        Refused{"two_values", "{} {}", kRpcParseError, "null"},
        Refused{"bad_utf8", "{\"jsonrpc\":\"2.0\",\"method\":\"\xff\"}", kRpcParseError, "null"},
        Refused{"nested_too_deep", std::string(1000, '['), kRpcParseError, "null"},
        Refused{"array", R"([{"jsonrpc":"2.0","method":"x"}])", kRpcInvalidRequest, "null"},
        Refused{"number", "3", kRpcInvalidRequest, "null"},
        Refused{"no_version", R"({"id":1,"method":"x"})", kRpcInvalidRequest, "1"},
        Refused{"other_version", R"({"jsonrpc":"1.0","id":1,"method":"x"})", kRpcInvalidRequest,
                "1"},
        Refused{"version_number", R"({"jsonrpc":2.0,"id":1,"method":"x"})", kRpcInvalidRequest,
                "1"},
        Refused{"no_method", R"({"jsonrpc":"2.0","id":"a"})", kRpcInvalidRequest, R"("a")"},
        Refused{"method_number", R"({"jsonrpc":"2.0","id":1,"method":5})", kRpcInvalidRequest, "1"},
        Refused{"id_object", R"({"jsonrpc":"2.0","id":{},"method":"x"})", kRpcInvalidRequest,
                "null"},
        Refused{"id_truth", R"({"jsonrpc":"2.0","id":true,"method":"x"})", kRpcInvalidRequest,
                "null"},
        Refused{"params_array", R"({"jsonrpc":"2.0","id":1,"method":"x","params":[1]})",
                kRpcInvalidParams, "1"},
        Refused{"params_null", R"({"jsonrpc":"2.0","id":1,"method":"x","params":null})",
                kRpcInvalidParams, "1"}),
    [](const auto& test) { return test.param.name; });

TEST(JsonRpcTest, RequestsSurviveTheRoundTrip) {
  const json::object params{{"name", "a \"quoted\"\n line"}, {"n", 5}};
  const auto line = format_rpc_request("guest.x", params);
  EXPECT_EQ(line.find('\n'), line.size() - 1) << "one line";
  const auto request = parse_rpc_request(line);
  ASSERT_TRUE(request) << request.error().message;
  EXPECT_EQ(request.value().method, "guest.x");
  EXPECT_EQ(request.value().params, params);
  EXPECT_FALSE(request.value().id.is_null()) << "a request that wants a reply has an id";
}

TEST(JsonRpcTest, ResultsSurviveTheRoundTrip) {
  for (const auto* text : {"null", "{}", R"({"a":[1,2.5E0,"x\n"]})", "false", "0", R"("")"}) {
    const auto line = format_rpc_result(4, json::parse(text));
    EXPECT_EQ(line.find('\n'), line.size() - 1) << "one line";
    const auto reply = parse_rpc_reply(line);
    ASSERT_TRUE(reply) << reply.error().message();
    EXPECT_EQ(json::serialize(reply.value()), text);
  }
}

TEST(JsonRpcTest, ErrorsKeepTheirKindAndMessage) {
  for (const auto kind :
       {ErrorKind::kFailed, ErrorKind::kUsage, ErrorKind::kNoSuchGuest, ErrorKind::kHost,
        ErrorKind::kMigration, ErrorKind::kInDoubt, ErrorKind::kInterrupted}) {
    auto error = make_error(kind, "disk \"a\"\nis full");
    error.add_context("cannot pause");
    const auto line = format_rpc_error(4, error);
    EXPECT_EQ(line.find('\n'), line.size() - 1) << "one line";
    EXPECT_EQ(json::parse(line).at("error").at("code"), kRpcOperationFailed);
    const auto reply = parse_rpc_reply(line);
    ASSERT_FALSE(reply);
    EXPECT_EQ(reply.error().kind(), kind);
    EXPECT_EQ(reply.error().message(), "cannot pause: disk \"a\"\nis full");
  }
}

TEST(JsonRpcTest, HostileRepliesAreErrors) {
  for (const std::string line :
       {"", "x", "[]", "3", "null", "{}", R"({"error":null})", R"({"error":5})", R"({"error":{}})",
        R"({"error":{"message":5}})", R"({"error":{"message":"m","data":3}})",
        R"({"error":{"message":"m","data":{"exit_code":"4"}}})",
        R"({"error":{"message":"m","data":{"exit_code":0}}})",
        R"({"error":{"message":"m","data":{"exit_code":-1}}})",
        R"({"error":{"message":"m","data":{"exit_code":99999999999}}})",
        R"({"error":{"message":"m","data":{"exit_code":4.0}}})"}) {
    const auto reply = parse_rpc_reply(line);
    ASSERT_FALSE(reply) << line;
    EXPECT_EQ(reply.error().kind(), ErrorKind::kFailed) << line;
    EXPECT_FALSE(reply.error().message().empty()) << line;
  }
}

}  // namespace
}  // namespace vmm
