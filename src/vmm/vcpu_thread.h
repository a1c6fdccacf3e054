#pragma once

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <variant>

#include "base/error.h"
#include "devices/mmio_bus.h"
#include "kvm/runnable_vcpu.h"
#include "vmm/exit_handler.h"

namespace vmm {

// What ends or changes the whole guest, seen by one vCPU.
enum class GuestEvent { kShutdown, kReset, kCrash };
using VcpuEvent = std::variant<GuestEvent, Error>;

// The thread of one vCPU.
//
//              resume()               an event, or request_pause()
//   kPaused ------------> kRunning ------------------------------> kPaused
//      \_____________________\______ stop() ______________________> kStopped
//
// It starts paused. All methods are for the thread that owns it, but hold().
class VcpuThread {
 public:
  enum class State { kPaused, kRunning, kStopped };

  // Called on the vCPU's thread, which pauses itself afterwards; must not block.
  using EventHandler = std::function<void(VcpuEvent)>;

  // bus must outlive the thread. Installs the handler of the signal that takes threads out of the
  // guest (SIGRTMIN) in the process.
  VcpuThread(unsigned index, std::unique_ptr<kvm::RunnableVcpu> vcpu, const MmioBus& bus,
             EventHandler on_event);
  VcpuThread(const VcpuThread&) = delete;
  VcpuThread& operator=(const VcpuThread&) = delete;
  ~VcpuThread();

  void resume();
  // Asks the thread to leave the guest; wait_paused() returns when it has, with nothing of its last
  // exit left open. Two calls, so that all vCPUs leave at the same time.
  void request_pause();
  void wait_paused();
  // Keeps the vCPU out of the guest though it is running, until hold(false). Does not delay a pause
  // or stop(), and holds over them. Returns at once. Threads: any, while the owner keeps the
  // object.
  void hold(bool held);
  // Ends the thread; it cannot be resumed again.
  void stop();

  [[nodiscard]] State state() const;
  // Processor time the thread has used, in nanoseconds; 0 once it has ended.
  [[nodiscard]] std::uint64_t cpu_time() const;
  [[nodiscard]] const ExitCounts& exit_counts() const { return counts_; }

 private:
  void run();
  // Waits until the thread may run; false where it is to end.
  [[nodiscard]] bool enter_running();
  void leave_running();
  // Runs until the state wanted is no longer kRunning.
  [[nodiscard]] Result<> run_guest();
  // After an interruption: waits while the vCPU is held; false where the thread is to leave the
  // guest.
  [[nodiscard]] bool keep_running();
  void report(VcpuEvent event);
  void want(State state);
  // Takes the thread out of the guest, or keeps it from entering; under mutex_.
  void kick();

  const unsigned index_;
  const std::unique_ptr<kvm::RunnableVcpu> vcpu_;
  const MmioBus& bus_;
  const EventHandler on_event_;
  ExitCounts counts_;

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  State wanted_ = State::kPaused;  // under mutex_
  State state_ = State::kPaused;   // under mutex_
  bool held_ = false;              // under mutex_
  std::thread thread_;             // last but one, so that it starts with everything in place
  std::thread::native_handle_type thread_handle_{};
};

}  // namespace vmm
