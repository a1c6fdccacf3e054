#pragma once

#include <boost/json/object.hpp>
#include <boost/json/value.hpp>

#include <string>
#include <string_view>

#include "base/result.h"

namespace vmm {

// JSON-RPC 2.0, one object a line (docs/control-protocol.md).

// Error codes of the specification; errors of an operation are kRpcOperationFailed, with the exit
// code that they mean in error.data.exit_code.
inline constexpr int kRpcParseError = -32700;
inline constexpr int kRpcInvalidRequest = -32600;
inline constexpr int kRpcMethodNotFound = -32601;
inline constexpr int kRpcInvalidParams = -32602;
inline constexpr int kRpcOperationFailed = -32000;

struct RpcRequest {
  boost::json::value id;  // a string, a number, or null
  std::string method;
  boost::json::object params;
};

// A request that cannot be taken: what to answer.
struct RpcError {
  int code;
  std::string message;
  boost::json::value id = nullptr;
};

// Parses one line. Batches and positional parameters are not taken.
[[nodiscard]] boost::outcome_v2::basic_result<RpcRequest, RpcError,
                                              boost::outcome_v2::policy::terminate>
parse_rpc_request(std::string_view line);

// Lines to send, with the line end.
[[nodiscard]] std::string format_rpc_request(std::string_view method,
                                             const boost::json::object& params);
[[nodiscard]] std::string format_rpc_result(const boost::json::value& id,
                                            const boost::json::value& result);
[[nodiscard]] std::string format_rpc_error(const RpcError& error);
[[nodiscard]] std::string format_rpc_error(const boost::json::value& id, const Error& error);

// The result in a reply line, or the error it carries.
[[nodiscard]] Result<boost::json::value> parse_rpc_reply(std::string_view line);

}  // namespace vmm
