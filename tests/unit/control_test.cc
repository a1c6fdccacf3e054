#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/post.hpp>
#include <boost/json/serialize.hpp>

#include <array>
#include <future>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "vmm/control_client.h"
#include "vmm/control_server.h"
#include "vmm_support.h"

namespace vmm {
namespace {

namespace json = boost::json;
using namespace std::chrono_literals;

constexpr ControlClient::Timeout kTimeout{10'000};

// A server on a loop in a thread of its own, and a console whose input is kept.
class ControlTest : public ::testing::Test {
 protected:
  explicit ControlTest(bool has_virtio_console = false)
      : virtio_console_(has_virtio_console ? std::make_unique<Console>(*loop_) : nullptr) {
    auto listening = ControlServer::listen(*loop_, socket_, *console_, virtio_console_.get());
    if (!listening) {
      ADD_FAILURE() << listening.error().message();
      std::abort();
    }
    server_ = std::move(listening).value();
    server_->add_method("echo", [](const json::object& params) -> Result<json::value> {
      return json::value(params);
    });
    server_->add_method("fail", [](const json::object& params) -> Result<json::value> {
      return fail(Error(static_cast<ErrorKind>(params.at("kind").as_int64()), "it failed"));
    });
    console_->connect_device([this](std::span<const std::byte> bytes) {
      const std::lock_guard lock(mutex_);
      uart_ += text_of(bytes);
      return bytes.size();
    });
    thread_ = std::thread([this] { loop_->run(); });
  }
  ~ControlTest() override { stop(); }

  // Ends the loop with whatever connections are open, and destroys in the order of the program.
  void stop() {
    if (!thread_.joinable()) return;
    loop_->stop();
    thread_.join();
    server_.reset();
    console_.reset();
    virtio_console_.reset();
    loop_.reset();
  }
  [[nodiscard]] ControlClient connect() const {
    auto client = ControlClient::connect_path(socket_);
    if (!client) {
      ADD_FAILURE() << client.error().message();
      std::abort();
    }
    return std::move(client).value();
  }
  // Waits until the loop has done what was asked of it so far.
  void wait_for_loop() {
    std::promise<void> done;
    boost::asio::post(*loop_, [&done] { done.set_value(); });
    done.get_future().wait();
  }
  void output(std::string_view text) {
    console_->write(bytes_of(text));
    wait_for_loop();
  }
  [[nodiscard]] std::string uart() const {
    const std::lock_guard lock(mutex_);
    return uart_;
  }
  static void send(const ControlClient& client, std::string_view text) {
    ASSERT_EQ(::send(client.fd().get(), text.data(), text.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(text.size()));
  }
  // Reads until this many bytes, the end of the stream, or a long silence.
  static std::string receive(const ControlClient& client, std::size_t size) {
    std::string text;
    std::array<char, 65536> buffer;
    while (text.size() < size) {
      pollfd readable{client.fd().get(), POLLIN, 0};
      if (::poll(&readable, 1, 10'000) != 1) {
        ADD_FAILURE() << "nothing for 10 s";
        break;
      }
      const auto n =
          ::recv(client.fd().get(), buffer.data(), std::min(buffer.size(), size - text.size()), 0);
      if (n <= 0) break;
      text.append(buffer.data(), static_cast<std::size_t>(n));
    }
    return text;
  }
  static std::string receive_line(const ControlClient& client) {
    std::string line;
    while (line.empty() || line.back() != '\n') {
      const auto next = receive(client, 1);
      if (next.empty()) break;
      line += next;
    }
    return line;
  }

  TempDir dir_;
  const std::filesystem::path socket_ = dir_ / "web.sock";
  std::unique_ptr<boost::asio::io_context> loop_ = std::make_unique<boost::asio::io_context>(1);
  std::unique_ptr<Console> console_ = std::make_unique<Console>(*loop_);
  std::unique_ptr<Console> virtio_console_;
  std::unique_ptr<ControlServer> server_;
  mutable std::mutex mutex_;
  std::string uart_;
  std::thread thread_;
};

TEST_F(ControlTest, CallsReturnTheirResult) {
  auto client = connect();
  for (int i = 0; i < 20; ++i) {
    const auto result = client.call("echo", {{"i", i}, {"text", "a\nb"}}, kTimeout);
    ASSERT_TRUE(result) << result.error().message();
    EXPECT_EQ(result.value(), (json::value{{"i", i}, {"text", "a\nb"}}));
  }
}

TEST_F(ControlTest, UnknownMethodsAreErrors) {
  auto client = connect();
  expect_error(client.call("guest.fly", {}, kTimeout), ErrorKind::kFailed,
               "unknown method guest.fly");
  EXPECT_TRUE(client.call("echo", {}, kTimeout)) << "the connection goes on";
}

TEST_F(ControlTest, ErrorsKeepTheirKind) {
  auto client = connect();
  for (const auto kind : {ErrorKind::kFailed, ErrorKind::kUsage, ErrorKind::kHost,
                          ErrorKind::kInDoubt, ErrorKind::kInterrupted}) {
    expect_error(client.call("fail", {{"kind", static_cast<int>(kind)}}, kTimeout), kind,
                 "it failed");
  }
}

TEST_F(ControlTest, TheSocketIsForItsOwnerAlone) {
  struct stat status {};
  ASSERT_EQ(::stat(socket_.c_str(), &status), 0);
  EXPECT_TRUE(S_ISSOCK(status.st_mode));
  EXPECT_EQ(status.st_mode & 07777, 0600U);
}

TEST_F(ControlTest, BadLinesAreAnsweredAndTheConnectionGoesOn) {
  auto client = connect();
  struct Case {
    std::string line;
    int code;
  };
  for (const auto& [line, code] :
       {Case{"\n", -32700}, Case{"\xff\x01\n", -32700}, Case{"{\"jsonrpc\":\n", -32700},
        Case{"[]\n", -32600}, Case{"{\"id\":3}\n", -32600},
        Case{"{\"jsonrpc\":\"2.0\",\"method\":\"echo\",\"params\":[]}\n", -32602},
        Case{"{\"jsonrpc\":\"2.0\",\"method\":\"no\"}\n", -32601}}) {
    send(client, line);
    EXPECT_THAT(receive_line(client), ::testing::HasSubstr(fmt::format("\"code\":{}", code)))
        << line;
  }
  EXPECT_TRUE(client.call("echo", {}, kTimeout));
}

TEST_F(ControlTest, LinesMayComeInPiecesAndTogether) {
  auto client = connect();
  const std::string line = R"({"jsonrpc":"2.0","id":1,"method":"echo"})"
                           "\n";
  send(client, line.substr(0, 10));
  wait_for_loop();
  send(client, line.substr(10) + line + line);
  for (int i = 0; i < 3; ++i) EXPECT_THAT(receive_line(client), ::testing::HasSubstr("result"));
}

TEST_F(ControlTest, ALineWithoutEndEndsTheConnection) {
  auto client = connect();
  const std::string chunk(16 * 1024, 'x');
  // The server closes while this still sends, so that sending may fail, too.
  for (int i = 0; i < 16; ++i) {
    if (::send(client.fd().get(), chunk.data(), chunk.size(), MSG_NOSIGNAL) < 0) break;
  }
  const auto closed = client.wait_closed(kTimeout);
  ASSERT_TRUE(closed) << closed.error().message();
  EXPECT_TRUE(closed.value());
  EXPECT_TRUE(connect().call("echo", {}, kTimeout)) << "others are served";
}

TEST_F(ControlTest, AConnectionThatGoesInTheMiddleOfALineHarmsNobody) {
  for (int i = 0; i < 10; ++i) send(connect(), "{\"jsonrpc\"");
  EXPECT_TRUE(connect().call("echo", {}, kTimeout));
}

TEST_F(ControlTest, TheConsoleComesWithItsHistory) {
  output("booting, ");
  auto client = connect();
  ASSERT_TRUE(client.call("console.attach", {}, kTimeout));
  wait_for_loop();
  output("booted");
  const std::string wanted = "booting, booted";
  EXPECT_EQ(client.received() + receive(client, wanted.size() - client.received().size()), wanted);
}

TEST_F(ControlTest, ConsoleInputReachesTheUart) {
  auto client = connect();
  send(client, "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"console.attach\"}\nls\r");
  EXPECT_THAT(receive_line(client), ::testing::HasSubstr("result"));
  send(client, "{\"jsonrpc\"\n");  // no request any more
  for (int i = 0; i < 1000 && uart().size() < 14; ++i) std::this_thread::sleep_for(1ms);
  EXPECT_EQ(uart(), "ls\r{\"jsonrpc\"\n");
}

TEST_F(ControlTest, AGuestWithoutVirtioConsoleHasTheSerialOne) {
  output("serial");
  auto client = connect();
  const auto reply = client.call("console.attach", {{"device", "serial"}}, kTimeout);
  ASSERT_TRUE(reply) << reply.error().message();
  EXPECT_EQ(reply.value(), (json::value{{"device", "serial"}}));
  auto other = connect();
  expect_error(other.call("console.attach", {{"device", "virtio"}}, kTimeout), ErrorKind::kFailed,
               "no virtio console");
  for (const json::value& device : {json::value("hvc0"), json::value(1), json::value(nullptr)}) {
    expect_error(other.call("console.attach", {{"device", device}}, kTimeout), ErrorKind::kUsage,
                 "device");
  }
  expect_error(other.call("console.resize", {{"cols", 80}, {"rows", 24}}, kTimeout),
               ErrorKind::kFailed, "no size");
  EXPECT_EQ(other.call("console.attach", {}, kTimeout).value(), reply.value());
}

// A server of a guest with both consoles.
class TwoConsolesTest : public ControlTest {
 protected:
  TwoConsolesTest() : ControlTest(true) {}

  std::string attached(const json::object& params) {
    auto client = connect();
    const auto reply = client.call("console.attach", params, kTimeout);
    if (!reply) return reply.error().message();
    const auto device = std::string(reply.value().at("device").as_string());
    return device + ": " +
           (client.received() +
            receive(client, 4 - std::min<std::size_t>(4, client.received().size())));
  }
};

TEST_F(TwoConsolesTest, TheVirtioConsoleIsTheOneUnlessTheSerialOneIsAskedFor) {
  output("tty0");
  virtio_console_->write(bytes_of("hvc0"));
  wait_for_loop();
  EXPECT_EQ(attached({}), "virtio: hvc0");
  EXPECT_EQ(attached({{"device", "virtio"}}), "virtio: hvc0");
  EXPECT_EQ(attached({{"device", "serial"}}), "serial: tty0");
}

TEST_F(TwoConsolesTest, EachConsoleHasItsOwnInput) {
  std::string hvc;
  std::promise<void> connected;
  boost::asio::post(*loop_, [&] {
    virtio_console_->connect_device([&](std::span<const std::byte> bytes) {
      const std::lock_guard lock(mutex_);
      hvc += text_of(bytes);
      return bytes.size();
    });
    connected.set_value();
  });
  connected.get_future().wait();
  auto virtio = connect();
  ASSERT_TRUE(virtio.call("console.attach", {}, kTimeout));
  auto serial = connect();
  ASSERT_TRUE(serial.call("console.attach", {{"device", "serial"}}, kTimeout));
  send(virtio, "virtio");
  send(serial, "serial");
  const auto both = [&] {
    const std::lock_guard lock(mutex_);
    return hvc + " " + uart_;
  };
  for (int i = 0; i < 1000 && both() != "virtio serial"; ++i) std::this_thread::sleep_for(1ms);
  EXPECT_EQ(both(), "virtio serial");
  stop();
}

TEST_F(TwoConsolesTest, TheSizeOfATerminalReachesTheDevice) {
  std::vector<TerminalSize> sizes;
  std::promise<void> connected;
  boost::asio::post(*loop_, [&] {
    virtio_console_->connect_device([](std::span<const std::byte>) { return std::size_t{0}; },
                                    [&](TerminalSize size) { sizes.push_back(size); });
    connected.set_value();
  });
  connected.get_future().wait();
  auto client = connect();
  EXPECT_TRUE(client.call("console.resize", {{"cols", 80}, {"rows", 24}}, kTimeout));
  for (const json::object& params :
       {json::object{}, json::object{{"cols", 1}}, json::object{{"cols", -1}, {"rows", 1}},
        json::object{{"cols", 1}, {"rows", 65536}}, json::object{{"cols", "x"}, {"rows", 1}}}) {
    expect_error(client.call("console.resize", params, kTimeout), ErrorKind::kUsage,
                 "is not a number from 0 to 65535");
  }
  EXPECT_TRUE(client.call("console.resize", {{"cols", 65535}, {"rows", 0}}, kTimeout));
  stop();
  EXPECT_THAT(sizes, ::testing::ElementsAre(TerminalSize{80, 24}, TerminalSize{65535, 0}));
}

TEST_F(ControlTest, ADetachedConsoleIsGone) {
  {
    auto client = connect();
    ASSERT_TRUE(client.call("console.attach", {}, kTimeout));
  }
  for (int i = 0; i < 20; ++i) output("nobody listens\n");
  auto again = connect();
  ASSERT_TRUE(again.call("console.attach", {}, kTimeout));
  EXPECT_EQ(
      (again.received() + receive(again, 15 - std::min<std::size_t>(15, again.received().size())))
          .substr(0, 15),
      "nobody listens\n");
}

TEST_F(ControlTest, ASlowConsoleReaderIsCutOff) {
  auto slow = connect();
  ASSERT_TRUE(slow.call("console.attach", {}, kTimeout));
  wait_for_loop();
  const std::string chunk(64 * 1024, 'x');
  constexpr int kChunks = 64;  // 4 MiB, beyond backlog and socket buffers
  for (int i = 0; i < kChunks; ++i) output(chunk);
  std::size_t received = slow.received().size();
  for (;;) {
    const auto more = receive(slow, chunk.size());
    received += more.size();
    if (more.size() < chunk.size()) break;
  }
  EXPECT_LT(received, kChunks * chunk.size());
  auto quick = connect();
  ASSERT_TRUE(quick.call("console.attach", {}, kTimeout)) << "others are served";
}

TEST_F(ControlTest, AReaderThatKeepsUpGetsEverything) {
  auto client = connect();
  ASSERT_TRUE(client.call("console.attach", {}, kTimeout));
  output("go");  // what comes between reply and attachment is history, of which there is less
  ASSERT_EQ(receive(client, 2), "go");
  const std::string chunk(64 * 1024, 'y');
  for (int i = 0; i < 40; ++i) {
    output(chunk);
    ASSERT_EQ(receive(client, chunk.size()).size(), chunk.size());
  }
}

TEST_F(ControlTest, ManyConnectionsAreServedUpToALimit) {
  constexpr std::size_t kLimit = 64;
  std::vector<ControlClient> clients;
  for (std::size_t i = 0; i < kLimit; ++i) {
    clients.push_back(connect());
    ASSERT_TRUE(clients.back().call("echo", {}, kTimeout)) << i;
  }
  auto refused = connect();
  const auto closed = refused.wait_closed(kTimeout);
  ASSERT_TRUE(closed) << closed.error().message();
  EXPECT_TRUE(closed.value());
  for (auto& client : clients) EXPECT_TRUE(client.call("echo", {}, kTimeout));
  clients.clear();
  wait_for_loop();
  bool served = false;
  for (int i = 0; i < 100 && !served; ++i) {
    served = connect().call("echo", {}, kTimeout).has_value();
    if (!served) std::this_thread::sleep_for(10ms);
  }
  EXPECT_TRUE(served) << "closed connections do not count";
}

TEST_F(ControlTest, TheEndOfTheServerClosesItsConnections) {
  auto idle = connect();
  ASSERT_TRUE(idle.call("echo", {}, kTimeout));
  auto attached = connect();
  ASSERT_TRUE(attached.call("console.attach", {}, kTimeout));
  auto half = connect();
  send(half, "{\"json");
  stop();
  for (auto* client : {&idle, &attached, &half}) {
    const auto closed = client->wait_closed(kTimeout);
    ASSERT_TRUE(closed) << closed.error().message();
    EXPECT_TRUE(closed.value());
  }
  expect_error(ControlClient::connect_path(socket_), ErrorKind::kNoSuchGuest,
               "no guest named web is running");
}

TEST_F(ControlTest, ASocketInUseIsAnError) {
  boost::asio::io_context loop;
  Console console(loop);
  expect_error(ControlServer::listen(loop, socket_, console), ErrorKind::kHost, socket_.string());
  expect_error(ControlServer::listen(loop, "/nowhere/x.sock", console), ErrorKind::kHost,
               "/nowhere/x.sock");
  expect_error(ControlServer::listen(loop, dir_ / std::string(120, 'x'), console),
               ErrorKind::kUsage, "too long");
}

// A server that does not answer as it should.
class HostileServerTest : public ::testing::Test {
 protected:
  ControlClient connect() {
    boost::asio::local::stream_protocol::endpoint endpoint((dir_ / "web.sock").string());
    acceptor_.emplace(loop_, endpoint);
    auto client = ControlClient::connect_path(dir_ / "web.sock");
    peer_.emplace(acceptor_->accept());
    return std::move(client).value();
  }

  TempDir dir_;
  boost::asio::io_context loop_;
  std::optional<boost::asio::local::stream_protocol::acceptor> acceptor_;
  std::optional<boost::asio::local::stream_protocol::socket> peer_;
};

// The guest's name, disks and memory are free only when its process has ended.
TEST(ControlClientTest, WaitsForTheEndOfTheProcessBehindAConnection) {
  TempDir dir;
  std::array<int, 2> listening{};
  std::array<int, 2> may_end{};
  ASSERT_EQ(::pipe(listening.data()), 0);
  ASSERT_EQ(::pipe(may_end.data()), 0);
  const pid_t guest = ::fork();
  if (guest == 0) {
    boost::asio::io_context loop;
    boost::asio::local::stream_protocol::acceptor acceptor(loop, (dir / "web.sock").string());
    char byte = 0;
    if (::write(listening[1], &byte, 1) != 1) ::_exit(1);
    acceptor.accept().close();
    ::_exit(::read(may_end[0], &byte, 1) == 1 ? 0 : 1);
  }
  char byte = 0;
  ASSERT_EQ(::read(listening[0], &byte, 1), 1);
  auto client = ControlClient::connect_path(dir / "web.sock");
  ASSERT_TRUE(client);
  EXPECT_FALSE(client.value().wait_closed(100ms).value());
  ASSERT_EQ(::write(may_end[1], &byte, 1), 1);
  EXPECT_TRUE(client.value().wait_closed(kTimeout).value());
  EXPECT_EQ(::waitpid(guest, nullptr, 0), guest);
  for (const int fd : {listening[0], listening[1], may_end[0], may_end[1]}) ::close(fd);
}

TEST_F(HostileServerTest, SilenceRunsIntoTheTimeout) {
  auto client = connect();
  expect_error(client.call("guest.info", {}, 30ms), ErrorKind::kFailed, "does not answer");
  const auto closed = client.wait_closed(30ms);
  ASSERT_TRUE(closed) << closed.error().message();
  EXPECT_FALSE(closed.value());
}

TEST_F(HostileServerTest, AConnectionClosedBeforeTheReplyIsAnError) {
  auto client = connect();
  peer_->write_some(boost::asio::buffer("{\"jsonrpc\"", 10));
  peer_.reset();
  expect_error(client.call("guest.info", {}, kTimeout), ErrorKind::kFailed, "");
  EXPECT_TRUE(client.wait_closed(kTimeout).value());
}

TEST_F(HostileServerTest, ALineThatIsNoReplyIsAnError) {
  auto client = connect();
  peer_->write_some(boost::asio::buffer("hello\n", 6));
  expect_error(client.call("guest.info", {}, kTimeout), ErrorKind::kFailed, "not a JSON object");
}

TEST_F(HostileServerTest, AnEndlessReplyIsGivenUp) {
  auto client = connect();
  std::thread writer([this] {
    const std::string chunk(1 << 20, 'x');
    boost::system::error_code error;
    while (!error) peer_->write_some(boost::asio::buffer(chunk), error);
  });
  expect_error(client.call("guest.info", {}, kTimeout), ErrorKind::kFailed, "too long");
  ::shutdown(client.fd().get(), SHUT_RDWR);
  writer.join();
}

TEST(ControlClientTest, NamesOfNoGuestAreRefused) {
  const TempDir dir;
  expect_error(ControlClient::connect_path(dir / "none.sock"), ErrorKind::kNoSuchGuest,
               "no guest named none is running");
  expect_error(ControlClient::connect_path(dir / std::string(200, 'x')), ErrorKind::kUsage,
               "too long");
}

}  // namespace
}  // namespace vmm
