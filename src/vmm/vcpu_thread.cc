#include "vmm/vcpu_thread.h"

#include <pthread.h>
#include <signal.h>
#include <time.h>

#include <cstdlib>
#include <utility>

namespace vmm {
namespace {

int kick_signal() {
  return SIGRTMIN;
}

// A handler that does nothing: the signal's only use is to make KVM_RUN return with EINTR.
void install_kick_handler() {
  struct sigaction action {};
  action.sa_handler = [](int) {};
  if (::sigaction(kick_signal(), &action, nullptr) != 0) std::abort();
}

// All other signals are for the main thread.
void block_signals_but_kick() {
  sigset_t set;
  sigfillset(&set);
  sigdelset(&set, kick_signal());
  // Those of our own bugs keep their default: the process dies of them.
  for (const int fatal : {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGTRAP, SIGSYS}) {
    sigdelset(&set, fatal);
  }
  if (::pthread_sigmask(SIG_SETMASK, &set, nullptr) != 0) std::abort();
}

}  // namespace

VcpuThread::VcpuThread(unsigned index, std::unique_ptr<kvm::RunnableVcpu> vcpu, const MmioBus& bus,
                       EventHandler on_event)
    : index_(index), vcpu_(std::move(vcpu)), bus_(bus), on_event_(std::move(on_event)) {
  install_kick_handler();
  thread_ = std::thread([this] { run(); });
  thread_handle_ = thread_.native_handle();
}

VcpuThread::~VcpuThread() {
  stop();
}

void VcpuThread::want(State state) {
  const std::lock_guard lock(mutex_);
  if (wanted_ == State::kStopped) return;
  wanted_ = state;
  if (state != State::kRunning) kick();
  changed_.notify_all();
}

void VcpuThread::kick() {
  // The flag first: a thread about to enter the guest sees it, one inside sees the signal.
  vcpu_->request_exit();
  if (state_ == State::kRunning && ::pthread_kill(thread_handle_, kick_signal()) != 0) {
    std::abort();
  }
}

void VcpuThread::hold(bool held) {
  const std::lock_guard lock(mutex_);
  held_ = held;
  if (held) kick();
  changed_.notify_all();
}

void VcpuThread::resume() {
  want(State::kRunning);
}
void VcpuThread::request_pause() {
  want(State::kPaused);
}

void VcpuThread::wait_paused() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return state_ != State::kRunning; });
}

void VcpuThread::stop() {
  want(State::kStopped);
  if (thread_.joinable()) thread_.join();
}

VcpuThread::State VcpuThread::state() const {
  const std::lock_guard lock(mutex_);
  return state_;
}

std::uint64_t VcpuThread::cpu_time() const {
  clockid_t clock{};
  timespec time{};
  // stop() joins, and only the owner calls either: the thread is there, or joinable() is false.
  if (!thread_.joinable() || ::pthread_getcpuclockid(thread_handle_, &clock) != 0 ||
      ::clock_gettime(clock, &time) != 0) {
    return 0;
  }
  return static_cast<std::uint64_t>(time.tv_sec) * 1'000'000'000 +
         static_cast<std::uint64_t>(time.tv_nsec);
}

void VcpuThread::run() {
  block_signals_but_kick();
  ::pthread_setname_np(::pthread_self(), ("vcpu" + std::to_string(index_)).c_str());
  while (enter_running()) {
    auto result = run_guest();
    if (!result) {
      auto error = std::move(result).error();
      if (const auto pc = vcpu_->program_counter()) {
        error.add_context(fmt::format("vCPU {} at pc {:#x}", index_, pc.value()));
      }
      report(std::move(error));
    }
    leave_running();
  }
}

bool VcpuThread::enter_running() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return wanted_ != State::kPaused; });
  if (wanted_ == State::kStopped) {
    state_ = State::kStopped;
    changed_.notify_all();
    return false;
  }
  // One that is held completes its last exit, and then waits in keep_running().
  if (!held_) vcpu_->allow_run();
  state_ = State::kRunning;
  return true;
}

void VcpuThread::leave_running() {
  const std::lock_guard lock(mutex_);
  state_ = State::kPaused;
  changed_.notify_all();
}

bool VcpuThread::keep_running() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return !held_ || wanted_ != State::kRunning; });
  if (wanted_ != State::kRunning) return false;
  // Held no more, or resumed before it had paused: the request to leave is still there.
  vcpu_->allow_run();
  return true;
}

Result<> VcpuThread::run_guest() {
  for (;;) {
    TRY(const auto exit, vcpu_->run());
    TRY(const auto action, handle_exit(exit, bus_, counts_));
    switch (action) {
      case VcpuAction::kContinue:
        break;
      case VcpuAction::kInjectAbort: {
        TRY(vcpu_->inject_data_abort());
        break;
      }
      case VcpuAction::kShutdown:
        report(GuestEvent::kShutdown);
        return success();
      case VcpuAction::kReset:
        report(GuestEvent::kReset);
        return success();
      case VcpuAction::kCrash:
        report(GuestEvent::kCrash);
        return success();
    }
    // KVM finishes an exit (the register of an MMIO read, the program counter) when it is called
    // next, so the loop ends only on an exit with nothing left open: with the request to leave
    // pending, one more run() finishes the last exit and returns without entering the guest.
    if (std::holds_alternative<kvm::Interrupted>(exit) && !keep_running()) return success();
  }
}

void VcpuThread::report(VcpuEvent event) {
  {
    const std::lock_guard lock(mutex_);
    if (wanted_ == State::kRunning) wanted_ = State::kPaused;
  }
  on_event_(std::move(event));
}

}  // namespace vmm
