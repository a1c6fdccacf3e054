#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/json/object.hpp>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>

#include "base/result.h"
#include "migration/source.h"
#include "vmm/control_server.h"
#include "vmm/guest.h"
#include "vmm/guest_config.h"
#include "vmm/guest_resources.h"

namespace vmm {

// The control methods migration.start, .progress, .cancel and .resolve (docs/control-protocol.md),
// and the guest as the migration's thread sees it. One migration at a time. All on the event loop.
class OutgoingMigration {
 public:
  // All must outlive it; the loop must not run any more once it has gone.
  OutgoingMigration(boost::asio::io_context& loop, const GuestConfig& config,
                    GuestResources& resources, Guest& guest);
  OutgoingMigration(const OutgoingMigration&) = delete;
  OutgoingMigration& operator=(const OutgoingMigration&) = delete;
  ~OutgoingMigration();

  void add_methods(ControlServer& server);
  // Called before a migration starts.
  void set_before_start(std::function<void()> handler) { before_start_ = std::move(handler); }

  [[nodiscard]] bool active() const { return session_ != nullptr; }
  // Of the migration that is active.
  [[nodiscard]] boost::json::object progress_json() const;

 private:
  struct Session;

  [[nodiscard]] Result<boost::json::value> start(const boost::json::object& params);
  [[nodiscard]] Result<boost::json::value> progress();
  [[nodiscard]] Result<boost::json::value> cancel();
  [[nodiscard]] Result<boost::json::value> resolve(const boost::json::object& params);
  [[nodiscard]] Result<migration::Manifest> manifest(const MovableMachine& machine,
                                                     const migration::SourceOptions& options);
  void finished(Result<migration::MigrationReport> result);
  // The guest has gone: its process ends once somebody has been told how it went.
  void depart_soon(std::chrono::milliseconds delay);

  boost::asio::io_context& loop_;
  const GuestConfig& config_;
  GuestResources& resources_;
  Guest& guest_;
  std::function<void()> before_start_;
  std::unique_ptr<Session> session_;
  std::optional<Result<migration::MigrationReport>> last_;
  std::string destination_;
  boost::asio::steady_timer departure_;
};

}  // namespace vmm
