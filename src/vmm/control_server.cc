#include "vmm/control_server.h"

#include <sys/stat.h>
#include <sys/un.h>

#include <boost/asio/buffer.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/read_until.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>

#include <algorithm>
#include <array>

#include "base/log.h"
#include "vmm/json_rpc.h"

namespace vmm {
namespace asio = boost::asio;
namespace json = boost::json;

namespace {

constexpr std::size_t kMaxLine = 64 * 1024;
constexpr std::size_t kMaxSessions = 64;
// A client that reads slower than this much behind loses its connection, not the guest its speed.
constexpr std::size_t kMaxConsoleBacklog = 1 << 20;

auto into(boost::system::error_code& error) {
  return asio::redirect_error(asio::use_awaitable, error);
}

}  // namespace

// One connection; it lives in the coroutine that serves it.
class ControlServer::Session final : public ConsoleListener {
 public:
  Session(ControlServer& server, Socket socket) : server_(&server), socket_(std::move(socket)) {
    server_->sessions_.insert(this);
  }
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;
  ~Session() override {
    if (server_ == nullptr) return;
    server_->sessions_.erase(this);
    abandon();
  }

  // The server goes; the coroutine goes later, with the event loop.
  void abandon() {
    if (console_ != nullptr) console_->detach(*this);
    console_ = nullptr;
    server_ = nullptr;
  }

  asio::awaitable<void> serve() {
    std::string received;
    boost::system::error_code error;
    for (;;) {
      const std::size_t length = co_await asio::async_read_until(
          socket_, asio::dynamic_buffer(received, kMaxLine), '\n', into(error));
      if (error) co_return;
      const std::string line = received.substr(0, length);
      received.erase(0, length);
      Console* console = nullptr;
      const std::string reply = server_->answer(line, console);
      co_await asio::async_write(socket_, asio::buffer(reply), into(error));
      if (error) co_return;
      if (console != nullptr) {
        co_await serve_console(*console, received);
        co_return;
      }
    }
  }

  void console_output(std::span<const std::byte> bytes) override {
    if (backlog_.size() + bytes.size() > kMaxConsoleBacklog) {
      boost::system::error_code ignored;  // the reader's coroutine ends either way
      socket_.close(ignored);
      return;
    }
    backlog_.insert(backlog_.end(), bytes.begin(), bytes.end());
    if (!writing_) {
      writing_ = true;
      write_backlog();
    }
  }

 private:
  asio::awaitable<void> serve_console(Console& console, std::string received) {
    console_ = &console;
    console.attach(*this);
    console.input(std::as_bytes(std::span(received)));
    std::array<std::byte, 1024> buffer{};
    boost::system::error_code error;
    for (;;) {
      co_await console.input_space();
      const std::size_t size = co_await socket_.async_read_some(asio::buffer(buffer), into(error));
      if (error) break;
      console.input(std::span(buffer).first(size));
    }
    console.detach(*this);
    console_ = nullptr;
    // A write still under way refers to this session: wait for it to see the closed socket.
    socket_.close(error);
    while (writing_) co_await asio::post(server_->loop_, asio::use_awaitable);
  }

  void write_backlog() {
    in_flight_.swap(backlog_);
    backlog_.clear();
    asio::async_write(socket_, asio::buffer(in_flight_),
                      [this](const boost::system::error_code& error, std::size_t) {
                        if (error || backlog_.empty()) {
                          writing_ = false;
                        } else {
                          write_backlog();
                        }
                      });
  }

  ControlServer* server_;       // null once it has gone
  Console* console_ = nullptr;  // that this is attached to
  Socket socket_;
  std::vector<std::byte> backlog_;
  std::vector<std::byte> in_flight_;
  bool writing_ = false;
};

ControlServer::ControlServer(asio::io_context& loop, Console& serial_console,
                             Console* virtio_console)
    : loop_(loop),
      acceptor_(loop),
      serial_console_(serial_console),
      virtio_console_(virtio_console) {}

ControlServer::~ControlServer() {
  for (Session* session : sessions_) session->abandon();
}

Result<std::unique_ptr<ControlServer>> ControlServer::listen(asio::io_context& loop,
                                                             const std::filesystem::path& socket,
                                                             Console& serial_console,
                                                             Console* virtio_console) {
  std::unique_ptr<ControlServer> server(new ControlServer(loop, serial_console, virtio_console));
  boost::system::error_code error;
  if (socket.string().size() >= sizeof(sockaddr_un::sun_path)) {
    return fail(ErrorKind::kUsage, "{} is too long for a socket's path", socket.string());
  }
  const asio::local::stream_protocol::endpoint endpoint(socket.string());
  server->acceptor_.open(endpoint.protocol(), error);
  // The mode must be right from the first moment on, so that nobody else gets in before a chmod().
  const mode_t mask = ::umask(0177);
  if (!error) server->acceptor_.bind(endpoint, error);
  ::umask(mask);
  if (!error) server->acceptor_.listen(asio::socket_base::max_listen_connections, error);
  if (error) {
    return fail(ErrorKind::kHost, "cannot open control socket {}: {}", socket.string(),
                error.message());
  }
  asio::co_spawn(loop, server->accept(), asio::detached);
  return server;
}

void ControlServer::add_method(const std::string& name, Method method) {
  methods_[name] = std::move(method);
}

asio::awaitable<void> ControlServer::accept() {
  for (;;) {
    boost::system::error_code error;
    Socket socket = co_await acceptor_.async_accept(into(error));
    if (error == asio::error::operation_aborted) co_return;
    if (error) {
      // Out of descriptors, most likely; they may come back.
      log(LogLevel::kWarning, "control socket: {}", error.message());
      asio::steady_timer pause(loop_, std::chrono::seconds(1));
      co_await pause.async_wait(into(error));
      continue;
    }
    if (sessions_.size() >= kMaxSessions) continue;  // closes the connection
    auto session = std::make_shared<Session>(*this, std::move(socket));
    asio::co_spawn(
        loop_, [session]() -> asio::awaitable<void> { co_await session->serve(); }, asio::detached);
  }
}

Result<Console*> ControlServer::console_for(const json::object& params) const {
  const json::value* device = params.if_contains("device");
  if (device == nullptr) return virtio_console_ != nullptr ? virtio_console_ : &serial_console_;
  if (*device == "serial") return &serial_console_;
  if (*device != "virtio") {
    return fail(ErrorKind::kUsage, "device is neither \"virtio\" nor \"serial\"");
  }
  if (virtio_console_ == nullptr) {
    return fail(ErrorKind::kFailed, "the guest has no virtio console, only the serial one");
  }
  return virtio_console_;
}

Result<json::value> ControlServer::resize(const json::object& params) const {
  const auto characters = [&params](std::string_view key) -> Result<std::uint16_t> {
    const json::value* value = params.if_contains(key);
    boost::system::error_code error;
    const auto number = value != nullptr ? value->to_number<std::uint16_t>(error) : 0;
    if (value == nullptr || error) {
      return fail(ErrorKind::kUsage, "{} is not a number from 0 to 65535", key);
    }
    return number;
  };
  TRY(const auto cols, characters("cols"));
  TRY(const auto rows, characters("rows"));
  if (virtio_console_ == nullptr) {
    return fail(ErrorKind::kFailed, "the guest's serial console has no size");
  }
  virtio_console_->resize({cols, rows});
  return json::value(json::object());
}

std::string ControlServer::answer(const std::string& line, Console*& console) const {
  const auto request = parse_rpc_request(line);
  if (!request) return format_rpc_error(request.error());
  const auto& [id, method, params] = request.value();
  const auto reply = [&id](const Result<json::value>& result) {
    return result ? format_rpc_result(id, result.value()) : format_rpc_error(id, result.error());
  };
  if (method == "console.attach") {
    const auto found = console_for(params);
    if (!found) return format_rpc_error(id, found.error());
    console = found.value();
    return format_rpc_result(
        id, json::object{{"device", console == virtio_console_ ? "virtio" : "serial"}});
  }
  if (method == "console.resize") return reply(resize(params));
  const auto found = methods_.find(method);
  if (found == methods_.end()) {
    return format_rpc_error(RpcError{kRpcMethodNotFound, "unknown method " + method, id});
  }
  return reply(found->second(params));
}

}  // namespace vmm
