#pragma once

#include <boost/asio/awaitable.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>

#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "base/result.h"
#include "vmm/console.h"
#include "vmm/control_server.h"
#include "vmm/dirty_rate.h"
#include "vmm/guest.h"
#include "vmm/guest_config.h"
#include "vmm/guest_resources.h"
#include "vmm/machine_parts.h"
#include "vmm/outgoing_migration.h"
#include "vmm/outgoing_snapshot.h"
#include "vmm/runtime_dir.h"
#include "vmm/terminal.h"

namespace vmm {

// Everything that lives as long as a guest's process, on one event loop: the guest, its consoles,
// its control socket, and what happens at signals.
class GuestProcess {
 public:
  GuestProcess(GuestConfig config, GuestResources resources, GuestName name, MachineMaker maker);

  // Makes control socket and machine. start() boots the guest; after start_incoming() it comes from
  // another host or a snapshot, and identity is that of its machine there.
  [[nodiscard]] Result<> start();
  [[nodiscard]] Result<> start_incoming(std::vector<std::byte> identity);
  // Runs the event loop until the guest ends; how it ended. In the foreground the guest's console
  // is on the terminal.
  [[nodiscard]] Result<> run(bool foreground);

  // For who brings the guest here. Whatever else uses these does so on the loop.
  [[nodiscard]] boost::asio::io_context& loop() { return loop_; }
  [[nodiscard]] Guest& guest() { return guest_; }
  [[nodiscard]] GuestResources& resources() { return resources_; }
  [[nodiscard]] ControlServer& server() { return *server_; }
  // From now on a signal calls this instead of asking the guest to shut down; empty: no longer.
  void set_on_signal(std::function<void()> handler) { on_signal_ = std::move(handler); }

 private:
  [[nodiscard]] Console* virtio_console();
  // The console that is on the terminal in the foreground.
  [[nodiscard]] Console& terminal_console();
  // Everything that has to be there before the machine.
  [[nodiscard]] Result<> open();
  void add_methods();
  // Presses the power key, and again every few seconds until the guest has ended: one that is still
  // booting has nobody yet to see the first press.
  [[nodiscard]] Result<> ask_to_shut_down();
  // The first signal asks the guest to shut down, the next one ends it.
  void request_shutdown();
  void wait_for_signal();
  void follow_terminal_size();
  [[nodiscard]] boost::asio::awaitable<void> pass_input();

  GuestConfig config_;
  GuestResources resources_;
  GuestName name_;
  MachineMaker maker_;
  boost::asio::io_context loop_{1};
  boost::asio::signal_set signals_;
  boost::asio::signal_set window_changes_;
  Console console_;
  Console virtio_console_;  // in use where the guest has one
  std::unique_ptr<FdOutput> file_output_;
  std::unique_ptr<FdOutput> terminal_output_;
  std::unique_ptr<ControlServer> server_;
  std::optional<std::vector<std::byte>> identity_;  // for the next machine; else that boots
  Guest guest_;
  OutgoingMigration migration_;
  OutgoingSnapshot snapshot_;
  DirtyRateMeter dirty_rate_;
  boost::asio::steady_timer next_press_;
  bool shutdown_requested_ = false;
  std::function<void()> on_signal_;
  Result<> result_ = success();
};

}  // namespace vmm
