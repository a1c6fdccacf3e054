#include "vmm/json_rpc.h"

#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>

namespace vmm {
namespace json = boost::json;

namespace {

bool is_id(const json::value& value) {
  return value.is_string() || value.is_number() || value.is_null();
}

// The error kind an exit code stands for; anything a peer makes up is a plain failure.
ErrorKind kind_of(const json::value* exit_code) {
  if (exit_code != nullptr && exit_code->is_int64()) {
    for (const auto kind : {ErrorKind::kUsage, ErrorKind::kNoSuchGuest, ErrorKind::kHost,
                            ErrorKind::kMigration, ErrorKind::kInDoubt, ErrorKind::kInterrupted}) {
      if (exit_code->get_int64() == static_cast<int>(kind)) return kind;
    }
  }
  return ErrorKind::kFailed;
}

}  // namespace

boost::outcome_v2::basic_result<RpcRequest, RpcError, boost::outcome_v2::policy::terminate>
parse_rpc_request(std::string_view line) {
  const auto refuse = [](int code, std::string_view message, json::value id = nullptr) {
    return boost::outcome_v2::failure(RpcError{code, std::string(message), std::move(id)});
  };
  boost::system::error_code error;
  const json::value parsed = json::parse(line, error);
  if (error) return refuse(kRpcParseError, "not a JSON value: " + error.message());
  const json::object* object = parsed.if_object();
  if (object == nullptr) return refuse(kRpcInvalidRequest, "not a JSON object");

  RpcRequest request;
  if (const json::value* id = object->if_contains("id")) {
    if (!is_id(*id)) return refuse(kRpcInvalidRequest, "id is no string, number or null");
    request.id = *id;
  }
  const json::value* version = object->if_contains("jsonrpc");
  if (version == nullptr || *version != "2.0") {
    return refuse(kRpcInvalidRequest, R"(jsonrpc is not "2.0")", request.id);
  }
  const json::value* method = object->if_contains("method");
  if (method == nullptr || !method->is_string()) {
    return refuse(kRpcInvalidRequest, "method is not a string", request.id);
  }
  request.method = method->get_string();
  if (const json::value* params = object->if_contains("params")) {
    if (!params->is_object()) {
      return refuse(kRpcInvalidParams, "params is not an object", request.id);
    }
    request.params = params->get_object();
  }
  return request;
}

std::string format_rpc_request(std::string_view method, const json::object& params) {
  return json::serialize(
             json::object{{"jsonrpc", "2.0"}, {"id", 1}, {"method", method}, {"params", params}}) +
         "\n";
}

std::string format_rpc_result(const json::value& id, const json::value& result) {
  return json::serialize(json::object{{"jsonrpc", "2.0"}, {"id", id}, {"result", result}}) + "\n";
}

std::string format_rpc_error(const RpcError& error) {
  return json::serialize(json::object{
             {"jsonrpc", "2.0"},
             {"id", error.id},
             {"error", json::object{{"code", error.code}, {"message", error.message}}}}) +
         "\n";
}

std::string format_rpc_error(const json::value& id, const Error& error) {
  return json::serialize(json::object{
             {"jsonrpc", "2.0"},
             {"id", id},
             {"error", json::object{{"code", kRpcOperationFailed},
                                    {"message", error.message()},
                                    {"data", json::object{{"exit_code",
                                                           static_cast<int>(error.kind())}}}}}}) +
         "\n";
}

Result<json::value> parse_rpc_reply(std::string_view line) {
  boost::system::error_code code;
  const json::value parsed = json::parse(line, code);
  const json::object* object = code ? nullptr : parsed.if_object();
  if (object == nullptr) return fail(ErrorKind::kFailed, "the reply is not a JSON object");
  if (const json::value* result = object->if_contains("result")) return *result;
  const json::value* error = object->if_contains("error");
  if (error == nullptr || !error->is_object()) {
    return fail(ErrorKind::kFailed, "the reply has neither result nor error");
  }
  const json::object& fields = error->get_object();
  const json::value* message = fields.if_contains("message");
  const json::value* data = fields.if_contains("data");
  const json::value* exit_code =
      data != nullptr && data->is_object() ? data->get_object().if_contains("exit_code") : nullptr;
  const bool has_text = message != nullptr && message->is_string();
  return fail(Error(kind_of(exit_code),
                    has_text ? std::string(message->get_string()) : "an error without a message"));
}

}  // namespace vmm
