#include <boost/asio/post.hpp>
#include <boost/json/parse.hpp>

#include <atomic>
#include <sstream>
#include <thread>

#include "fake_guest_server.h"
#include "migration/destination.h"
#include "migration/tcp_channel.h"
#include "movable_fakes.h"
#include "vmm/control_client.h"
#include "vmm/guest_process.h"
#include "vmm/incoming_config.h"
#include "vmm/incoming_migration.h"
#include "vmm/migrate_commands.h"

namespace vmm {
namespace {

namespace json = boost::json;
using migration::DecisionRecords;

constexpr std::uint64_t kMemory = 4 << 20;

// What is left of a machine that may be gone: for the test's thread once its process has ended.
struct Trace {
  std::atomic<bool> running = false;
  std::atomic<int> made = 0;
  int restores = 0;
  bool announced = false;
  bool advanced = false;
  bool logging = false;
  std::vector<std::byte> memory;
  std::vector<std::byte> state;
  std::vector<std::byte> identity;  // that it was made for
};

class TracedMachine final : public Machine {
 public:
  explicit TracedMachine(Trace& trace) : trace_(trace) {}
  ~TracedMachine() override {
    auto& memory = movable_.memory();
    const auto* bytes = memory.regions()[0].bytes.data();
    trace_.memory.assign(bytes, bytes + kMemory);
    trace_.state = movable_.state;
    trace_.restores = movable_.restores;
    trace_.announced = movable_.announced;
    trace_.advanced = movable_.stood_still.has_value();
    trace_.logging = movable_.dirty_log().on;
    trace_.running = false;
  }

  void resume() override { trace_.running = true; }
  void pause() override { trace_.running = false; }
  void set_power_key(bool /*pressed*/) override {}
  std::size_t serial_input(std::span<const std::byte> bytes) override { return bytes.size(); }
  std::size_t virtio_console_input(std::span<const std::byte> bytes) override {
    return bytes.size();
  }
  void set_console_size(std::uint16_t /*cols*/, std::uint16_t /*rows*/) override {}
  virtio::Balloon* balloon() override { return nullptr; }
  FakeMovable& movable() override { return movable_; }
  std::vector<VcpuStats> vcpu_stats() const override { return {}; }
  std::vector<DeviceStats> device_stats() const override { return {}; }

 private:
  Trace& trace_;
  FakeMovable movable_{kMemory};
};

// A guest on one "host" and somebody who waits for it on another, both in this process.
class GuestMoveTest : public ::testing::Test {
 protected:
  GuestMoveTest() {
    config_.name = "web";
    config_.memory = kMemory;
    config_.boot = {"Image", {}, ""};
    std::filesystem::create_directory(there_ / "sockets");
    source_.emplace(config_, GuestResources{}, GuestName::claim(folders_.sockets(), "web").value(),
                    maker(here_trace_, [](FakeMovable& machine) {
                      auto* bytes = machine.memory().regions()[0].bytes.data();
                      for (std::size_t at = 0; at < kMemory; at += 4096 * 3) {
                        bytes[at] = static_cast<std::byte>(at >> 12 | 1);
                      }
                      machine.state.assign(100, std::byte{0x77});
                    }));
  }
  ~GuestMoveTest() override {
    // Whatever a test has left running ends.
    static_cast<void>(call_there("guest.kill"));
    if (destination_) destination_->cancel();
    if (receiver_.joinable()) receiver_.join();
    if (source_thread_.joinable()) {
      boost::asio::post(source_->loop(), [this] {
        static_cast<void>(
            source_->guest().kill(make_error(ErrorKind::kFailed, "the test is over")));
      });
      source_thread_.join();
    }
  }

  static MachineMaker maker(Trace& trace, std::function<void(FakeMovable&)> fill) {
    return [&trace, fill = std::move(fill)](
               const MachineParts& parts,
               Machine::EventHandler /*on_event*/) -> Result<std::unique_ptr<Machine>> {
      auto machine = std::make_unique<TracedMachine>(trace);
      ++trace.made;
      if (parts.identity != nullptr) trace.identity = *parts.identity;
      fill(machine->movable());
      return std::unique_ptr<Machine>(std::move(machine));
    };
  }

  void start_source() {
    ASSERT_TRUE(source_->start());
    source_thread_ = std::thread([this] { source_result_.emplace(source_->run(false)); });
  }
  // Takes the guest in and runs it; its machine is changed by `spoil` first.
  void start_destination(std::function<void(FakeMovable&)> spoil = [](FakeMovable&) {}) {
    listener_.emplace(migration::TcpListener::listen({"127.0.0.1", 0}).value());
    acceptor_.emplace(*listener_);
    records_.emplace(DecisionRecords::open(there_ / "records").value());
    destination_.emplace(*acceptor_, *records_, std::chrono::seconds(5));
    receiver_ =
        std::thread([this, spoil = std::move(spoil)] { received_.emplace(receive(spoil)); });
  }
  Result<> receive(const std::function<void(FakeMovable&)>& spoil) {
    TRY(const auto manifest, destination_->await_manifest());
    TRY(auto config, incoming_config(manifest, {}));
    TRY(auto name, GuestName::claim(there_ / "sockets", config.name));
    GuestProcess process(std::move(config), GuestResources{}, std::move(name),
                         maker(there_trace_, spoil));
    TRY(process.start_incoming(manifest.cpu_identity));
    IncomingMigration migration(process, *destination_, manifest.paused);
    TRY(migration.start());
    return process.run(false);
  }
  Result<> migrate(MigrateOptions options = {}) {
    options.name = "web";
    options.to = listener_->address().text();
    options.connection.plaintext = true;
    options.json = true;
    ::testing::internal::CaptureStdout();
    auto result = migrate_guest(options);
    ::fflush(stdout);
    // Lines of the log may come before.
    std::istringstream lines(::testing::internal::GetCapturedStdout());
    for (std::string line; std::getline(lines, line);) {
      if (line.starts_with('{')) report_ = json::parse(line);
    }
    return result;
  }
  Result<json::value> call_there(const char* method) {
    TRY(auto client, ControlClient::connect_path(there_ / "sockets/web.sock"));
    return client.call(method, {}, std::chrono::seconds(10));
  }

  CommandFolders folders_;
  TempDir there_;
  Trace here_trace_;
  Trace there_trace_;
  GuestConfig config_;
  std::optional<GuestProcess> source_;
  std::optional<Result<>> source_result_;
  std::optional<migration::TcpListener> listener_;
  std::optional<migration::TcpAcceptor> acceptor_;
  std::optional<DecisionRecords> records_;
  std::optional<migration::Destination> destination_;
  std::optional<Result<>> received_;
  std::thread source_thread_;
  std::thread receiver_;
  json::value report_;
};

TEST_F(GuestMoveTest, AGuestMovesWithItsMemoryAndState) {
  start_source();
  start_destination();
  MigrateOptions options;
  options.verify = true;
  const auto moved = migrate(options);
  ASSERT_TRUE(moved) << moved.error().message();
  EXPECT_EQ(report_.at("result"), "migrated");
  EXPECT_EQ(report_.at("verify").at("source"), report_.at("verify").at("destination"));
  source_thread_.join();
  EXPECT_TRUE(*source_result_) << "the process of a guest that has gone ends well";

  const auto info = call_there("guest.info");
  ASSERT_TRUE(info) << info.error().message();
  EXPECT_EQ(info.value().at("state"), "running");
  EXPECT_TRUE(there_trace_.running);
  ASSERT_TRUE(call_there("guest.kill"));
  receiver_.join();
  expect_error(*received_, ErrorKind::kFailed, "killed by command");

  EXPECT_EQ(there_trace_.memory, here_trace_.memory);
  EXPECT_EQ(there_trace_.state, std::vector<std::byte>(100, std::byte{0x77}));
  EXPECT_EQ(there_trace_.identity, std::vector<std::byte>(16, std::byte{0x11}));
  EXPECT_EQ(there_trace_.restores, 2) << "the rehearsal and the real one";
  EXPECT_TRUE(there_trace_.announced);
  EXPECT_TRUE(there_trace_.advanced);
  EXPECT_EQ(there_trace_.made, 1);
  EXPECT_FALSE(here_trace_.running);
}

TEST_F(GuestMoveTest, APausedGuestArrivesPaused) {
  start_source();
  start_destination();
  auto client = ControlClient::connect("web");
  ASSERT_TRUE(client);
  ASSERT_TRUE(client.value().call("guest.pause", {}, std::chrono::seconds(10)));
  const auto moved = migrate();
  ASSERT_TRUE(moved) << moved.error().message();
  EXPECT_EQ(call_there("guest.info").value().at("state"), "paused");
  EXPECT_FALSE(there_trace_.running);
  ASSERT_TRUE(call_there("guest.resume"));
  EXPECT_TRUE(there_trace_.running);
  ASSERT_TRUE(call_there("guest.kill"));
}

TEST_F(GuestMoveTest, AStateThatDoesNotFitThereLeavesTheGuestHere) {
  start_source();
  start_destination([](FakeMovable& machine) { machine.restore_fails = true; });
  const auto moved = migrate();
  expect_error(moved, ErrorKind::kMigration, "the guest runs on here");
  EXPECT_EQ(report_.at("result"), "failed");
  receiver_.join();
  expect_error(*received_, ErrorKind::kHost, "the state does not fit");
  EXPECT_FALSE(there_trace_.running);
  auto client = ControlClient::connect("web");
  ASSERT_TRUE(client);
  EXPECT_EQ(client.value().call("guest.info").value().at("state"), "running");
  EXPECT_TRUE(here_trace_.running);
  ASSERT_TRUE(client.value().call("guest.kill"));
  source_thread_.join();
  EXPECT_FALSE(here_trace_.logging);
}

TEST_F(GuestMoveTest, AControlRunLeavesTheGuestHere) {
  start_source();
  start_destination();
  MigrateOptions options;
  options.control_run_mib = 1;
  const auto run = migrate(options);
  ASSERT_TRUE(run) << run.error().message();
  EXPECT_EQ(report_.at("result"), "control-run");
  EXPECT_TRUE(here_trace_.running);
  receiver_.join();
  EXPECT_FALSE(*received_);
  auto client = ControlClient::connect("web");
  ASSERT_TRUE(client);
  ASSERT_TRUE(client.value().call("guest.kill"));
}

}  // namespace
}  // namespace vmm
