#pragma once

#include <boost/asio/awaitable.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/json/object.hpp>
#include <boost/json/value.hpp>

#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>

#include "base/result.h"
#include "vmm/console.h"

namespace vmm {

// The control socket of a guest: JSON-RPC 2.0 over a Unix socket of mode 0600
// (docs/control-protocol.md). All on the event loop, which must not run any more once it has gone.
class ControlServer {
 public:
  using Method = std::function<Result<boost::json::value>(const boost::json::object&)>;

  // The consoles must outlive the event loop's last handler; virtio_console is null where the guest
  // has none. The socket's folder must exist.
  [[nodiscard]] static Result<std::unique_ptr<ControlServer>> listen(
      boost::asio::io_context& loop, const std::filesystem::path& socket, Console& serial_console,
      Console* virtio_console = nullptr);

  ControlServer(const ControlServer&) = delete;
  ControlServer& operator=(const ControlServer&) = delete;
  ~ControlServer();

  // Adds a method; call before the loop runs. "console.attach" is the server's own: after its reply
  // the connection carries the console's bytes. So is "console.resize".
  void add_method(const std::string& name, Method method);

 private:
  class Session;
  using Socket = boost::asio::local::stream_protocol::socket;

  ControlServer(boost::asio::io_context& loop, Console& serial_console, Console* virtio_console);
  [[nodiscard]] boost::asio::awaitable<void> accept();
  // The reply to one line; console is set to the one to attach to, if that was asked for.
  [[nodiscard]] std::string answer(const std::string& line, Console*& console) const;
  [[nodiscard]] Result<Console*> console_for(const boost::json::object& params) const;
  [[nodiscard]] Result<boost::json::value> resize(const boost::json::object& params) const;

  boost::asio::io_context& loop_;
  boost::asio::local::stream_protocol::acceptor acceptor_;
  Console& serial_console_;
  Console* const virtio_console_;
  std::map<std::string, Method> methods_;
  std::set<Session*> sessions_;
};

}  // namespace vmm
