#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string_view>

#include "base/result.h"
#include "vmm/console.h"
#include "vmm/machine.h"

namespace vmm {

//            pause()              shutdown, crash, kill()
//  kRunning <-------> kPaused   ---------------------------> kEnded
//            resume()
enum class GuestState { kRunning, kPaused, kEnded };
[[nodiscard]] std::string_view to_string(GuestState state);

// A guest's life: it owns the machine, makes a new one at each reboot, and decides what events and
// commands do. All on the event loop.
class Guest {
 public:
  using MachineFactory =
      std::function<Result<std::unique_ptr<Machine>>(Machine::EventHandler on_event)>;
  // Called once: success after a shutdown by the guest, else why it ended.
  using EndHandler = std::function<void(Result<>)>;

  // virtio_console is null where the guest has none. The consoles and loop must outlive the guest.
  Guest(boost::asio::io_context& loop, Console& console, Console* virtio_console,
        MachineFactory factory, EndHandler on_end);
  Guest(const Guest&) = delete;
  Guest& operator=(const Guest&) = delete;
  ~Guest();

  // Makes the machine and runs it.
  [[nodiscard]] Result<> start();

  // Both do nothing where the guest is in that state already.
  [[nodiscard]] Result<> pause();
  [[nodiscard]] Result<> resume();
  // Presses the power key for a moment; the guest shuts down if it listens. Error where it is
  // paused.
  [[nodiscard]] Result<> press_power_key();
  // Asks the guest to give up so many bytes, which holds over reboots, too. Error (kFailed) where
  // it has no balloon or has ended.
  [[nodiscard]] Result<> set_balloon_target(std::uint64_t bytes);
  // Asks the guest for statistics of its memory regularly, over reboots, too; 0 ends that.
  [[nodiscard]] Result<> set_balloon_period(std::chrono::seconds period);
  [[nodiscard]] Result<virtio::Balloon::Status> balloon_status();
  // Ends the guest at once, with this error.
  void kill(Error reason);

  [[nodiscard]] GuestState state() const { return state_; }
  [[nodiscard]] unsigned reboots() const { return reboots_; }
  [[nodiscard]] std::chrono::milliseconds uptime() const;
  // Empty once the guest has ended.
  [[nodiscard]] std::vector<VcpuStats> vcpu_stats() const;
  [[nodiscard]] std::vector<DeviceStats> device_stats() const;

 private:
  [[nodiscard]] Result<> make_machine();
  void drop_machine();
  [[nodiscard]] Result<virtio::Balloon*> balloon();
  void handle_event(const VcpuEvent& event);
  void reboot();
  void end(Result<> result);

  boost::asio::io_context& loop_;
  Console& console_;
  Console* const virtio_console_;
  MachineFactory factory_;
  EndHandler on_end_;
  boost::asio::steady_timer key_release_;
  std::chrono::steady_clock::time_point started_;
  GuestState state_ = GuestState::kPaused;
  unsigned reboots_ = 0;
  std::uint64_t balloon_target_ = 0;
  std::chrono::seconds balloon_period_{0};
  // Tells events of the present machine from late ones of a machine that is gone.
  std::uint64_t generation_ = 0;
  std::unique_ptr<Machine> machine_;
};

}  // namespace vmm
