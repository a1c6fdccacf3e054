#include "vmm/balloon_control.h"

#include <boost/json/serialize.hpp>

#include <thread>

#include "virtio_rig.h"
#include "vmm/control_client.h"
#include "vmm_support.h"

namespace vmm {
namespace {

namespace json = boost::json;
using namespace std::chrono_literals;

constexpr ControlClient::Timeout kTimeout{10'000};
constexpr std::uint64_t kMemory = virtio::kRigRamSize;

// A machine that is nothing but a balloon, if that.
class BalloonMachine final : public Machine {
 public:
  explicit BalloonMachine(virtio::Balloon* balloon) : balloon_(balloon) {}

  void resume() override {}
  void pause() override {}
  void set_power_key(bool) override {}
  std::size_t serial_input(std::span<const std::byte>) override { return 0; }
  std::size_t virtio_console_input(std::span<const std::byte>) override { return 0; }
  void set_console_size(std::uint16_t, std::uint16_t) override {}
  virtio::Balloon* balloon() override { return balloon_; }
  MovableMachine& movable() override { std::abort(); }  // no test of these moves it
  std::vector<VcpuStats> vcpu_stats() const override { return {}; }
  std::vector<DeviceStats> device_stats() const override { return {}; }

 private:
  virtio::Balloon* balloon_;
};

class BalloonControlTest : public ::testing::Test {
 protected:
  ~BalloonControlTest() override {
    loop_.stop();
    if (thread_.joinable()) thread_.join();
  }

  void start(bool has_balloon) {
    rig_.attach(std::make_unique<virtio::Balloon>(rig_.memory, rig_.loop));
    balloon_ = dynamic_cast<virtio::Balloon*>(&rig_.transport->device());
    guest_ = std::make_unique<Guest>(
        loop_, console_, nullptr,
        [this, has_balloon](Machine::EventHandler) -> Result<std::unique_ptr<Machine>> {
          return std::unique_ptr<Machine>(new BalloonMachine(has_balloon ? balloon_ : nullptr));
        },
        [](const Result<>&) {});
    ASSERT_TRUE(guest_->start());
    server_ = ControlServer::listen(loop_, dir_ / "web.sock", console_).value();
    add_balloon_methods(*server_, *guest_, kMemory);
    thread_ = std::thread([this] { loop_.run(); });
  }
  Result<json::value> call(std::string_view method, const json::object& params = {}) {
    auto client = ControlClient::connect_path(dir_ / "web.sock");
    if (!client) return fail(client.error());
    return client.value().call(method, params, kTimeout);
  }

  TempDir dir_;
  virtio::VirtioRig rig_;
  virtio::Balloon* balloon_ = nullptr;
  boost::asio::io_context loop_;
  Console console_{loop_};
  std::unique_ptr<Guest> guest_;
  std::unique_ptr<ControlServer> server_;
  std::thread thread_;
};

TEST_F(BalloonControlTest, SetsTheTargetAndTellsWhatTheGuestSays) {
  start(true);
  rig_.start();
  EXPECT_EQ(call("balloon.set", {{"target", 1 << 20}}).value(), json::value(json::object()));
  mmio_write(*rig_.transport, VIRTIO_MMIO_CONFIG + 4, 100);
  struct __attribute__((packed)) Stat {
    std::uint16_t tag;
    std::uint64_t value;
  };
  rig_.poke(virtio::kRigBuffers,
            std::array{Stat{VIRTIO_BALLOON_S_MEMFREE, 5 << 20}, Stat{VIRTIO_BALLOON_S_MAJFLT, 7}});
  rig_.submit(2, {{virtio::kRigBuffers, 20}});
  EXPECT_EQ(call("balloon.get").value(),
            (json::value{{"target", 1 << 20},
                         {"actual", 100 * 4096},
                         {"statistics", {{"free_memory", 5 << 20}, {"major_faults", 7}}},
                         {"statistics_updates", 1}}));
  EXPECT_TRUE(rig_.take_used(2)) << "new statistics are asked for";
}

TEST_F(BalloonControlTest, AGuestThatSaysNothingHasNoStatistics) {
  start(true);
  EXPECT_EQ(call("balloon.get").value(), (json::value{{"target", 0},
                                                      {"actual", 0},
                                                      {"statistics", json::object()},
                                                      {"statistics_updates", 0}}));
}

TEST_F(BalloonControlTest, APeriodAsksForStatisticsUntilItIsZero) {
  start(true);
  ASSERT_TRUE(call("balloon.set", {{"statistics_period", 5}}));
  EXPECT_TRUE(rig_.loop.has_timer_set());
  ASSERT_TRUE(call("balloon.set", {{"statistics_period", 0}}));
  EXPECT_FALSE(rig_.loop.has_timer_set());
}

TEST_F(BalloonControlTest, WrongParametersAreErrorsAndChangeNothing) {
  start(true);
  for (const json::object& params : {
           json::object{},
           json::object{{"size", 1}},
           json::object{{"target", -1}},
           json::object{{"target", "1M"}},
           json::object{{"target", 1.5}},
           json::object{{"target", kMemory + 1}},
           json::object{{"statistics_period", 86401}},
           json::object{{"target", 4096}, {"statistics_period", -1}},
       }) {
    expect_error(call("balloon.set", params), ErrorKind::kUsage, "");
    EXPECT_EQ(call("balloon.get").value().at("target"), 0) << json::serialize(params);
  }
  EXPECT_TRUE(call("balloon.set", {{"target", kMemory}})) << "all there is";
}

TEST_F(BalloonControlTest, AGuestWithoutABalloonIsAnError) {
  start(false);
  expect_error(call("balloon.get"), ErrorKind::kFailed, "the guest has no balloon");
  expect_error(call("balloon.set", {{"target", 0}}), ErrorKind::kFailed, "has no balloon");
  expect_error(call("balloon.set", {{"statistics_period", 0}}), ErrorKind::kFailed, "no balloon");
}

}  // namespace
}  // namespace vmm
