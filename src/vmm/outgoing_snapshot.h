#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/json/object.hpp>

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>

#include "base/result.h"
#include "migration/snapshot_file.h"
#include "vmm/control_server.h"
#include "vmm/guest.h"
#include "vmm/guest_config.h"
#include "vmm/guest_resources.h"

namespace vmm {

// The control methods snapshot.start, .progress and .cancel (docs/control-protocol.md). One
// snapshot at a time; it ends, and the guest goes on, where nobody asks for its progress any more.
// All on the event loop.
class OutgoingSnapshot {
 public:
  // All must outlive it; the loop must not run any more once it has gone.
  OutgoingSnapshot(boost::asio::io_context& loop, const GuestConfig& config,
                   GuestResources& resources, Guest& guest);
  OutgoingSnapshot(const OutgoingSnapshot&) = delete;
  OutgoingSnapshot& operator=(const OutgoingSnapshot&) = delete;
  ~OutgoingSnapshot();

  void add_methods(ControlServer& server);
  // For tests, before the loop runs: what files are written with, and how long a snapshot goes on
  // without being asked for.
  void set_calls(migration::SnapshotCalls& calls) { calls_ = &calls; }
  void set_patience(std::chrono::milliseconds patience) { patience_ = patience; }

 private:
  struct Report {
    std::uint64_t bytes = 0;             // of the file
    std::chrono::nanoseconds paused{0};  // how long the guest stood still
  };
  class Session;

  [[nodiscard]] Result<boost::json::value> start(const boost::json::object& params);
  [[nodiscard]] Result<boost::json::value> progress();
  [[nodiscard]] Result<boost::json::value> cancel();
  [[nodiscard]] Result<> check_possible(bool stop) const;
  void finished(Result<Report> result);
  void expect_client();
  void depart_soon(std::chrono::milliseconds delay);

  boost::asio::io_context& loop_;
  const GuestConfig& config_;
  GuestResources& resources_;
  Guest& guest_;
  migration::SnapshotCalls own_calls_;
  migration::SnapshotCalls* calls_ = &own_calls_;
  std::chrono::milliseconds patience_{5'000};
  std::unique_ptr<Session> session_;
  bool stops_ = false;  // the guest ends with the snapshot
  std::string path_;
  std::optional<Result<Report>> last_;
  boost::asio::steady_timer client_;     // until nobody waits any more
  boost::asio::steady_timer departure_;  // of a guest that ends with its snapshot
};

}  // namespace vmm
