#pragma once

#include <boost/json/object.hpp>
#include <boost/json/value.hpp>

#include <chrono>
#include <functional>
#include <future>
#include <memory>
#include <string>
#include <thread>

#include "fake_guest_server.h"
#include "guest_rig.h"
#include "vmm/control_client.h"
#include "vmm/dirty_rate.h"
#include "vmm/outgoing_migration.h"
#include "vmm/outgoing_snapshot.h"

namespace vmm {

// A guest named "web" with a fake machine, that can be measured, moved and saved over its control
// socket. Its event loop runs on a thread of its own from start() on.
class ServedGuest {
 public:
  ServedGuest() {
    config_.name = "web";
    config_.memory = 2 << 20;
    config_.boot = {"Image", {}, ""};
    if (!rig_.guest.start()) std::abort();
    socket_ = folders_.sockets() / "web.sock";
  }
  ServedGuest(const ServedGuest&) = delete;
  ServedGuest& operator=(const ServedGuest&) = delete;
  ~ServedGuest() { stop(); }

  void start() {
    auto listening = ControlServer::listen(rig_.loop, socket_, rig_.console);
    if (!listening) std::abort();
    server_ = std::move(listening).value();
    migration_.add_methods(*server_);
    snapshot_.add_methods(*server_);
    dirty_rate_.add_methods(*server_);
    thread_ = std::thread([this] { rig_.loop.run(); });
  }
  void stop() {
    rig_.loop.stop();
    if (thread_.joinable()) thread_.join();
  }

  [[nodiscard]] Result<boost::json::value> call(std::string_view method,
                                                const boost::json::object& params = {}) const {
    TRY(auto client, ControlClient::connect_path(socket_));
    return client.call(method, params, std::chrono::seconds(20));
  }
  // Calls a method again and again until what it answers is as wanted; that, or the last answer.
  [[nodiscard]] Result<boost::json::value> call_until(
      std::string_view method,
      const std::function<bool(const Result<boost::json::value>&)>& wanted) const {
    for (int tries = 0;; ++tries) {
      auto reply = call(method);
      if (wanted(reply) || tries == 2000) return reply;
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
  }
  // Runs a function on the event loop.
  void on_loop(const std::function<void()>& function) {
    std::promise<void> done;
    boost::asio::post(rig_.loop, [&] {
      function();
      done.set_value();
    });
    done.get_future().wait();
  }

  // While the loop runs: for functions on the loop.
  [[nodiscard]] GuestRig& rig() { return rig_; }
  [[nodiscard]] FakeDirtyLog& log() { return rig_.machine->movable().dirty_log(); }
  // Before start().
  [[nodiscard]] GuestConfig& config() { return config_; }
  [[nodiscard]] GuestResources& resources() { return resources_; }
  [[nodiscard]] OutgoingSnapshot& snapshot() { return snapshot_; }

 private:
  CommandFolders folders_;
  std::filesystem::path socket_;
  GuestRig rig_;
  GuestConfig config_;
  GuestResources resources_;
  OutgoingMigration migration_{rig_.loop, config_, resources_, rig_.guest};
  OutgoingSnapshot snapshot_{rig_.loop, config_, resources_, rig_.guest};
  DirtyRateMeter dirty_rate_{rig_.loop, rig_.guest, migration_};
  std::unique_ptr<ControlServer> server_;
  std::thread thread_;
};

}  // namespace vmm
