#include "vmm/rpc_params.h"

#include <boost/json/parse.hpp>

#include "vmm/json_access.h"
#include "vmm_support.h"

namespace vmm {
namespace {

namespace json = boost::json;
using namespace std::chrono_literals;

TEST(RpcParamsTest, WhatIsAbsentOrNullIsNotThere) {
  for (const json::object& params : {json::object{}, json::object{{"x", nullptr}}}) {
    EXPECT_EQ(optional_number(params, "x").value(), std::nullopt);
    EXPECT_EQ(optional_text(params, "x").value(), std::nullopt);
    EXPECT_EQ(optional_ms(params, "x").value(), std::nullopt);
    EXPECT_FALSE(flag(params, "x").value());
  }
}

TEST(RpcParamsTest, ValuesAreTakenAsTheyAre) {
  const json::object params{{"number", 17}, {"text", "seventeen"}, {"yes", true}, {"no", false}};
  EXPECT_EQ(optional_number(params, "number").value(), 17U);
  EXPECT_EQ(optional_ms(params, "number").value(), 17ms);
  EXPECT_EQ(optional_text(params, "text").value(), "seventeen");
  EXPECT_TRUE(flag(params, "yes").value());
  EXPECT_FALSE(flag(params, "no").value());
  EXPECT_EQ(optional_number({{"x", UINT64_MAX}}, "x").value(), UINT64_MAX);
}

TEST(RpcParamsTest, NumbersThatAreNoneAreNamed) {
  for (const json::value& value :
       {json::value(-1), json::value(1.5), json::value("1"), json::value(true),
        json::value(json::array{1}), json::value(1e30)}) {
    expect_error(optional_number({{"rounds", value}}, "rounds"), ErrorKind::kUsage,
                 "rounds is not a number");
    expect_error(optional_ms({{"rounds", value}}, "rounds"), ErrorKind::kUsage, "rounds");
  }
}

TEST(RpcParamsTest, OtherKindsAreNamed) {
  expect_error(optional_text({{"to", 1}}, "to"), ErrorKind::kUsage, "to is not a string");
  expect_error(flag({{"verify", 1}}, "verify"), ErrorKind::kUsage, "verify is neither true");
  expect_error(flag({{"verify", "true"}}, "verify"), ErrorKind::kUsage, "verify is neither true");
}

TEST(RpcParamsTest, TimesBeyondAYearAreRefused) {
  constexpr std::uint64_t kYear = 366ULL * 24 * 3600 * 1000;
  EXPECT_TRUE(optional_ms({{"t", kYear}}, "t"));
  expect_error(optional_ms({{"t", kYear + 1}}, "t"), ErrorKind::kUsage, "t is more than");
  expect_error(optional_ms({{"t", UINT64_MAX}}, "t"), ErrorKind::kUsage, "t is more than");
}

TEST(RpcParamsTest, LogModesAreNamedAsOnTheCommandLine) {
  EXPECT_EQ(optional_log_mode({}).value(), std::nullopt);
  EXPECT_EQ(optional_log_mode({{"dirty_log", "auto"}}).value(), std::nullopt);
  EXPECT_EQ(optional_log_mode({{"dirty_log", "hw"}}).value(), DirtyLogMode::kHardware);
  EXPECT_EQ(optional_log_mode({{"dirty_log", "wp"}}).value(), DirtyLogMode::kWriteProtect);
  for (const json::value& value : {json::value("HW"), json::value("")}) {
    expect_error(optional_log_mode({{"dirty_log", value}}), ErrorKind::kUsage,
                 "not auto, hw or wp");
  }
  expect_error(optional_log_mode({{"dirty_log", 1}}), ErrorKind::kUsage, "dirty_log");
}

// --- What clients read out of replies ---

TEST(JsonAccessTest, MembersAreFoundInObjectsAlone) {
  const json::value object{{"a", 1}};
  ASSERT_NE(find_member(object, "a"), nullptr);
  EXPECT_EQ(*find_member(object, "a"), 1);
  EXPECT_EQ(find_member(object, "b"), nullptr);
  EXPECT_EQ(find_member(json::value("a"), "a"), nullptr);
  EXPECT_EQ(*member(object, "a").value(), 1);
  expect_error(member(object, "b"), ErrorKind::kFailed, "lacks \"b\"");
  expect_error(member(json::value(nullptr), "b"), ErrorKind::kFailed, "lacks \"b\"");
}

TEST(JsonAccessTest, TextIsAStringOrJson) {
  const json::value object{{"text", "a\"b"}, {"list", json::array{1, 2}}, {"none", nullptr}};
  EXPECT_EQ(text(object, "text").value(), "a\"b");
  EXPECT_EQ(text(object, "list").value(), "[1,2]");
  EXPECT_EQ(text(object, "none").value(), "null");
  expect_error(text(object, "other"), ErrorKind::kFailed, "other");
}

TEST(JsonAccessTest, NumbersAreChecked) {
  const json::value object{{"n", -5}, {"x", 2.5}, {"text", "5"}, {"huge", UINT64_MAX}};
  EXPECT_EQ(integer(object, "n").value(), -5);
  EXPECT_EQ(real(object, "n").value(), -5.0);
  EXPECT_EQ(real(object, "x").value(), 2.5);
  expect_error(integer(object, "x"), ErrorKind::kFailed, "\"x\"");
  expect_error(integer(object, "huge"), ErrorKind::kFailed, "\"huge\"");
  for (const auto* key : {"text", "missing"}) {
    expect_error(integer(object, key), ErrorKind::kFailed, key);
    expect_error(real(object, key), ErrorKind::kFailed, key);
  }
}

}  // namespace
}  // namespace vmm
