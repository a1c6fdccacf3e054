#include "vmm/vcpu_thread.h"

#include <poll.h>
#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstring>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "vmm/vcpu_throttle.h"
#include "vmm_support.h"

namespace vmm {
namespace {

using State = VcpuThread::State;
using namespace std::chrono_literals;

constexpr std::uint64_t kDeviceBase = 0x900'0000;
constexpr std::uint64_t kPc = 0x4000'1234;

// What a vCPU did, outliving it.
struct Trace {
  std::atomic<int> entries{0};  // into the guest itself
  std::atomic<bool> in_guest{false};
  std::atomic<bool> exit_open{false};  // an MMIO exit that the next run() has to finish
  std::atomic<bool> stuck{false};      // nobody interrupted an endless guest
  std::atomic<int> aborts{0};
  std::atomic<std::uint64_t> value_read{0};
};

// A vCPU whose guest causes the exits it is given and then loops for ever. As KVM does, run()
// leaves the guest for a signal only, unless the request was there before.
class FakeVcpu final : public kvm::RunnableVcpu {
 public:
  using Step = std::function<Result<kvm::Exit>()>;

  FakeVcpu(Trace& trace, std::deque<Step> steps) : trace_(trace), steps_(std::move(steps)) {}

  Result<kvm::Exit> run() override {
    if (trace_.exit_open.exchange(false)) {
      std::uint64_t value = 0;
      std::memcpy(&value, data_.data(), data_.size());
      trace_.value_read = value;
    }
    // A signal that arrives from here on waits until ppoll() lets it in.
    sigset_t kick;
    sigset_t before;
    sigemptyset(&kick);
    sigaddset(&kick, SIGRTMIN);
    ::pthread_sigmask(SIG_BLOCK, &kick, &before);
    auto exit = run_with_signals_blocked(before);
    ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
    return exit;
  }
  void request_exit() override { exit_requested_ = true; }
  void allow_run() override { exit_requested_ = false; }
  Result<> inject_data_abort() override {
    ++trace_.aborts;
    return success();
  }
  Result<std::uint64_t> program_counter() const override { return kPc; }

  // An MMIO read whose value counts only once run() is called again.
  Result<kvm::Exit> mmio_read(std::uint64_t address) {
    trace_.exit_open = true;
    return kvm::MmioRead{address, data_};
  }

 private:
  Result<kvm::Exit> run_with_signals_blocked(const sigset_t& open_mask) {
    if (exit_requested_) return kvm::Interrupted{};
    ++trace_.entries;
    trace_.in_guest = true;
    if (!steps_.empty()) {
      auto step = std::move(steps_.front());
      steps_.pop_front();
      auto exit = step();
      trace_.in_guest = false;
      return exit;
    }
    const timespec limit{10, 0};
    if (::ppoll(nullptr, 0, &limit, &open_mask) == 0) trace_.stuck = true;
    trace_.in_guest = false;
    return kvm::Interrupted{};
  }

  Trace& trace_;
  std::deque<Step> steps_;
  std::array<std::byte, 8> data_{};
  std::atomic<bool> exit_requested_{false};
};

FakeVcpu::Step exit_with(kvm::Exit exit) {
  return [exit]() -> Result<kvm::Exit> { return exit; };
}

class FakeDevice final : public MmioDevice {
 public:
  void mmio_read(std::uint64_t, std::span<std::byte> data) override {
    std::ranges::fill(data, std::byte{0x42});
  }
  void mmio_write(std::uint64_t, std::span<const std::byte>) override {}
};

// Events in order of arrival.
class Events {
 public:
  void add(VcpuEvent event) {
    const std::lock_guard lock(mutex_);
    events_.push_back(std::move(event));
  }
  [[nodiscard]] std::vector<VcpuEvent> all() const {
    const std::lock_guard lock(mutex_);
    return events_;
  }

 private:
  mutable std::mutex mutex_;
  std::vector<VcpuEvent> events_;
};

class VcpuThreadTest : public ::testing::Test {
 protected:
  VcpuThreadTest() { EXPECT_TRUE(bus_.add(kDeviceBase, 0x1000, device_)); }
  ~VcpuThreadTest() override { EXPECT_FALSE(trace_.stuck) << "a vCPU was not interrupted"; }

  std::unique_ptr<VcpuThread> make(std::deque<FakeVcpu::Step> steps = {}) {
    auto vcpu = std::make_unique<FakeVcpu>(trace_, std::move(steps));
    vcpu_ = vcpu.get();
    return std::make_unique<VcpuThread>(3, std::move(vcpu), bus_,
                                        [this](VcpuEvent event) { events_.add(std::move(event)); });
  }
  template <typename Condition>
  static void wait_for(Condition condition) {
    for (int i = 0; i < 5000; ++i) {
      if (condition()) return;
      std::this_thread::sleep_for(1ms);
    }
    ADD_FAILURE() << "did not happen in 5 s";
  }
  void wait_in_guest() {
    wait_for([this] { return trace_.in_guest.load(); });
  }

  FakeDevice device_;
  MmioBus bus_;
  Trace trace_;
  Events events_;
  FakeVcpu* vcpu_ = nullptr;
};

TEST_F(VcpuThreadTest, StartsPaused) {
  auto thread = make();
  EXPECT_EQ(thread->state(), State::kPaused);
  std::this_thread::sleep_for(10ms);
  EXPECT_EQ(trace_.entries, 0);
  thread->wait_paused();
  EXPECT_EQ(thread->state(), State::kPaused);
}

TEST_F(VcpuThreadTest, ResumesAndPausesAgainAndAgain) {
  auto thread = make();
  for (int i = 0; i < 300; ++i) {
    const int entries = trace_.entries;
    thread->resume();
    // Paused before, while and after the thread enters the guest.
    if (i % 3 == 1) std::this_thread::yield();
    if (i % 3 == 2) wait_for([&] { return trace_.entries > entries; });
    thread->request_pause();
    thread->wait_paused();
    ASSERT_FALSE(trace_.in_guest) << i;
    ASSERT_EQ(thread->state(), State::kPaused) << i;
    const int after = trace_.entries;
    if (i % 100 == 0) std::this_thread::sleep_for(1ms);
    ASSERT_EQ(trace_.entries, after) << "runs though paused, round " << i;
  }
  EXPECT_THAT(events_.all(), ::testing::IsEmpty());
}

TEST_F(VcpuThreadTest, RunsOnWhenResumedBeforeThePauseIsThrough) {
  auto thread = make();
  for (int i = 0; i < 100; ++i) {
    thread->resume();
    if (i % 2 == 0) wait_in_guest();
    thread->request_pause();
    thread->resume();
    const int entries = trace_.entries;
    if (i % 3 == 0) std::this_thread::yield();
    // It is in the guest, or comes back to it.
    wait_for([&] { return trace_.in_guest || trace_.entries > entries; });
    ASSERT_EQ(thread->state(), State::kRunning);
    thread->request_pause();
    thread->wait_paused();
    ASSERT_FALSE(trace_.in_guest);
  }
}

TEST_F(VcpuThreadTest, StopsFromEveryState) {
  auto paused = make();
  paused->stop();
  EXPECT_EQ(paused->state(), State::kStopped);
  paused->stop();
  paused->resume();
  paused->request_pause();
  paused->wait_paused();
  EXPECT_EQ(paused->state(), State::kStopped) << "it cannot be resumed again";
  EXPECT_EQ(trace_.entries, 0);

  for (int i = 0; i < 50; ++i) {
    auto running = make();
    running->resume();
    if (i % 2 == 0) wait_in_guest();
    running->stop();
    ASSERT_EQ(running->state(), State::kStopped);
    ASSERT_FALSE(trace_.in_guest);
  }
}

TEST_F(VcpuThreadTest, EndsWithItsOwnerWhileTheGuestRuns) {
  {
    auto thread = make();
    thread->resume();
    wait_in_guest();
  }
  EXPECT_FALSE(trace_.in_guest);
}

TEST_F(VcpuThreadTest, SystemEventsAreReportedOnceAndPauseTheVcpu) {
  struct Case {
    kvm::SystemEvent event;
    GuestEvent reported;
  };
  for (const auto& [event, reported] : {Case{kvm::SystemEvent::kShutdown, GuestEvent::kShutdown},
                                        Case{kvm::SystemEvent::kReset, GuestEvent::kReset},
                                        Case{kvm::SystemEvent::kCrash, GuestEvent::kCrash}}) {
    const auto before = events_.all().size();
    auto thread = make({exit_with(event)});
    thread->resume();
    wait_for([&] { return events_.all().size() > before; });
    thread->wait_paused();
    EXPECT_EQ(thread->state(), State::kPaused);
    const int entries = trace_.entries;
    std::this_thread::sleep_for(5ms);
    EXPECT_EQ(trace_.entries, entries) << "it does not go on by itself";
    const auto events = events_.all();
    ASSERT_EQ(events.size(), before + 1);
    EXPECT_EQ(std::get<GuestEvent>(events.back()), reported);

    thread->request_pause();
    thread->wait_paused();
    thread->resume();
    wait_in_guest();
  }
}

TEST_F(VcpuThreadTest, AnEventAndAPauseAtOnceEndPaused) {
  for (int i = 0; i < 100; ++i) {
    auto thread = make({exit_with(kvm::SystemEvent::kReset)});
    thread->resume();
    if (i % 2 == 0) std::this_thread::yield();
    thread->request_pause();
    thread->wait_paused();
    ASSERT_EQ(thread->state(), State::kPaused);
    thread->stop();
    ASSERT_LE(events_.all().size(), static_cast<std::size_t>(i) + 1);
  }
}

TEST_F(VcpuThreadTest, ErrorsNameVcpuAndProgramCounter) {
  std::deque<FakeVcpu::Step> steps;
  steps.emplace_back(
      []() -> Result<kvm::Exit> { return fail(ErrorKind::kHost, "KVM_RUN failed"); });
  steps.push_back(exit_with(kvm::Failure{9, 0x77}));
  auto thread = make(std::move(steps));
  for (const std::string words : {"KVM_RUN failed", "exit reason 9, detail 0x77"}) {
    const auto before = events_.all().size();
    thread->resume();
    wait_for([&] { return events_.all().size() > before; });
    thread->wait_paused();
    const auto event = events_.all().back();
    ASSERT_TRUE(std::holds_alternative<Error>(event));
    EXPECT_THAT(std::get<Error>(event).message(),
                ::testing::AllOf(::testing::HasSubstr("vCPU 3 at pc 0x40001234"),
                                 ::testing::HasSubstr(words)));
  }
}

TEST_F(VcpuThreadTest, UndecodedAccessesGetAnAbortAndTheGuestGoesOn) {
  auto thread = make({exit_with(kvm::UndecodedAccess{0x1000})});
  thread->resume();
  wait_for([this] { return trace_.entries >= 2; });
  EXPECT_EQ(trace_.aborts, 1);
  EXPECT_EQ(thread->exit_counts().undecoded, 1U);
}

TEST_F(VcpuThreadTest, APauseLeavesNoExitOpen) {
  for (int i = 0; i < 50; ++i) {
    std::atomic<bool> at_exit = false;
    std::atomic<bool> go_on = false;
    std::deque<FakeVcpu::Step> steps;
    steps.emplace_back([&]() -> Result<kvm::Exit> {
      at_exit = true;
      while (!go_on) std::this_thread::yield();
      return vcpu_->mmio_read(kDeviceBase);
    });
    trace_.value_read = 0;
    auto thread = make(std::move(steps));
    thread->resume();
    wait_for([&] { return at_exit.load(); });
    // The request is there before the thread has carried out the exit.
    thread->request_pause();
    go_on = true;
    thread->wait_paused();
    ASSERT_FALSE(trace_.exit_open) << i;
    ASSERT_EQ(trace_.value_read, 0x4242'4242'4242'4242U);
    ASSERT_EQ(thread->state(), State::kPaused);
  }
}

// --- Held back ---

TEST_F(VcpuThreadTest, StaysOutOfTheGuestWhileItIsHeld) {
  auto thread = make();
  thread->resume();
  for (int i = 0; i < 50; ++i) {
    wait_in_guest();
    thread->hold(true);
    wait_for([this] { return !trace_.in_guest; });
    const int entries = trace_.entries;
    if (i % 10 == 0) std::this_thread::sleep_for(5ms);
    ASSERT_EQ(trace_.entries, entries) << i;
    ASSERT_EQ(thread->state(), State::kRunning) << "it runs as far as others can tell";
    thread->hold(false);
  }
  wait_in_guest();
}

TEST_F(VcpuThreadTest, IsHeldAndLetGoAtAnyMoment) {
  auto thread = make();
  thread->resume();
  for (int i = 0; i < 200; ++i) {
    thread->hold(true);
    if (i % 2 == 0) std::this_thread::yield();
    thread->hold(false);
    if (i % 3 == 0) std::this_thread::yield();
  }
  wait_in_guest();
}

TEST_F(VcpuThreadTest, PausesAtOnceThoughItIsHeld) {
  auto thread = make();
  for (int i = 0; i < 100; ++i) {
    thread->resume();
    if (i % 2 == 0) wait_in_guest();
    thread->hold(true);
    if (i % 4 == 0) wait_for([this] { return !trace_.in_guest; });
    thread->request_pause();
    thread->wait_paused();  // nobody lets it go
    ASSERT_EQ(thread->state(), State::kPaused);
    ASSERT_FALSE(trace_.in_guest);
    thread->hold(false);
    const int entries = trace_.entries;
    if (i % 20 == 0) std::this_thread::sleep_for(1ms);
    ASSERT_EQ(trace_.entries, entries) << "let go is not resumed";
  }
}

TEST_F(VcpuThreadTest, AHoldLastsOverAPause) {
  auto thread = make();
  thread->hold(true);
  thread->resume();
  std::this_thread::sleep_for(5ms);
  EXPECT_EQ(trace_.entries, 0);
  thread->request_pause();
  thread->wait_paused();
  thread->resume();
  std::this_thread::sleep_for(5ms);
  EXPECT_EQ(trace_.entries, 0);
  thread->hold(false);
  wait_in_guest();
}

TEST_F(VcpuThreadTest, StopsThoughItIsHeld) {
  for (int i = 0; i < 20; ++i) {
    auto thread = make();
    thread->resume();
    if (i % 2 == 0) wait_in_guest();
    thread->hold(true);
    thread->stop();
    ASSERT_EQ(thread->state(), State::kStopped);
    thread->hold(false);
    thread->hold(true);
  }
}

TEST_F(VcpuThreadTest, AHoldLeavesNoExitOpen) {
  std::deque<FakeVcpu::Step> steps;
  steps.emplace_back([this] { return vcpu_->mmio_read(kDeviceBase); });
  auto thread = make(std::move(steps));
  thread->resume();
  wait_for([this] { return trace_.entries >= 1; });
  thread->hold(true);
  wait_for([this] { return !trace_.in_guest && !trace_.exit_open; });
  EXPECT_EQ(trace_.value_read, 0x4242'4242'4242'4242U);
}

TEST_F(VcpuThreadTest, ThrottledItLeavesTheGuestAgainAndAgain) {
  auto thread = make();
  VcpuThrottle throttle([&](bool held) { thread->hold(held); });
  thread->resume();
  throttle.set(50);
  wait_for([this] { return trace_.entries >= 5; });
  throttle.set(0);
  wait_in_guest();
  const int entries = trace_.entries;
  std::this_thread::sleep_for(50ms);
  EXPECT_EQ(trace_.entries, entries) << "nobody disturbs it any more";
}

TEST_F(VcpuThreadTest, CountsExitsAndProcessorTime) {
  std::deque<FakeVcpu::Step> steps;
  steps.emplace_back([this] { return vcpu_->mmio_read(kDeviceBase); });
  steps.emplace_back([this] { return vcpu_->mmio_read(kDeviceBase + 0x1000); });
  steps.push_back(exit_with(kvm::MmioWrite{kDeviceBase, bytes_of("x")}));
  auto thread = make(std::move(steps));
  thread->resume();
  wait_for([this] { return trace_.entries >= 4; });
  thread->request_pause();
  thread->wait_paused();
  const auto& counts = thread->exit_counts();
  EXPECT_EQ(counts.mmio_reads, 2U);
  EXPECT_EQ(counts.mmio_writes, 1U);
  EXPECT_EQ(counts.unclaimed, 1U);
  EXPECT_EQ(counts.undecoded, 0U);
  EXPECT_GE(counts.interrupted, 1U);
  EXPECT_GT(thread->cpu_time(), 0U);
  thread->stop();
  EXPECT_EQ(thread->cpu_time(), 0U);
}

TEST_F(VcpuThreadTest, ManyVcpusPauseTogether) {
  constexpr std::size_t kVcpus = 8;
  std::array<Trace, kVcpus> traces;
  std::vector<std::unique_ptr<VcpuThread>> threads;
  for (auto& trace : traces) {
    threads.push_back(std::make_unique<VcpuThread>(
        0, std::make_unique<FakeVcpu>(trace, std::deque<FakeVcpu::Step>()), bus_,
        [](VcpuEvent) {}));
  }
  for (int i = 0; i < 50; ++i) {
    for (const auto& thread : threads) thread->resume();
    for (const auto& thread : threads) thread->request_pause();
    for (const auto& thread : threads) thread->wait_paused();
    for (const auto& trace : traces) ASSERT_FALSE(trace.in_guest || trace.stuck);
  }
}

}  // namespace
}  // namespace vmm
