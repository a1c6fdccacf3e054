#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "vmm/console.h"
#include "vmm/machine.h"

namespace vmm {

//               arrive()             pause()             shutdown, crash, kill()
//   kIncoming ------------> kRunning <-------> kPaused   ------------------------> kEnded
//                              | ^    resume()  | ^                                  ^
//                    suspend() v |              v | unsuspend()                      |
//                           kHandover  <-----> kInDoubt  ------- depart() -----------'
//
// In kHandover and kInDoubt only the migration (or snapshot) decides.
enum class GuestState {
  kIncoming,  // its state comes in from another host; it has never run here
  kRunning,
  kPaused,
  kHandover,  // stopped for the last part of a migration to another host, or for a snapshot
  kInDoubt,   // given up to another host that has not said whether it runs it
  kEnded,
};
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
  // Makes a machine for a guest that comes from another host; it waits for arrive().
  [[nodiscard]] Result<> start_incoming();
  // The guest is here: it runs, or stays paused where its operator had paused it. A power key that
  // was held at the source is released.
  void arrive(bool paused);

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
  // Ends the guest at once, with this error. Error where a migration has given it up, as then this
  // copy is not what ends it.
  [[nodiscard]] Result<> check_killable() const;
  [[nodiscard]] Result<> kill(Error reason);

  // A task that needs the present machine, such as a migration. Only one at a time: error (kFailed)
  // where there is one, naming it, or where there is no machine to use. When the machine is about
  // to go (reboot, shutdown, kill), `hurry` is called, perhaps more than once, and the machine
  // stays until end_task().
  [[nodiscard]] Result<MovableMachine*> begin_task(std::string name, std::function<void()> hurry);
  void end_task();

  // For the task that migrates the guest or saves it. suspend() stops it, whether it runs or not;
  // error where an event waits that ends this machine. unsuspend() gives it back what it was doing.
  [[nodiscard]] Result<> suspend();
  void unsuspend();
  void set_in_doubt();
  // The guest has gone to another host, or into a snapshot: it ends here, well.
  void depart();

  [[nodiscard]] GuestState state() const { return state_; }
  // Whether the guest is paused by its operator, also while it is suspended.
  [[nodiscard]] bool paused() const;
  [[nodiscard]] unsigned reboots() const { return reboots_; }
  [[nodiscard]] std::chrono::milliseconds uptime() const;
  // Empty once the guest has ended.
  [[nodiscard]] std::vector<VcpuStats> vcpu_stats() const;
  [[nodiscard]] std::vector<DeviceStats> device_stats() const;

 private:
  [[nodiscard]] Result<> make_machine();
  void drop_machine();
  [[nodiscard]] Result<virtio::Balloon*> balloon();
  [[nodiscard]] Result<> check_not_away() const;
  void handle_event(const VcpuEvent& event);
  void apply_event(const VcpuEvent& event);
  // Does what ends or replaces the machine, now or when the task has ended.
  void change_machine(std::function<void()> change);
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

  struct Task {
    std::string name;
    std::function<void()> hurry;
    std::function<void()> afterwards;  // what waits for its end
  };
  std::optional<Task> task_;
  GuestState before_suspension_ = GuestState::kRunning;
};

}  // namespace vmm
