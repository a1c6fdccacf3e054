#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/uio.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <condition_variable>
#include <cstdlib>
#include <deque>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "base/thread_annotations.h"
#include "devices/io_engine.h"

namespace vmm {
namespace {

constexpr std::size_t kThreads = 4;

std::int32_t make_call(const IoCall& call) {
  const auto offset = static_cast<off_t>(call.offset);
  const auto count = static_cast<int>(call.buffers.size());
  ssize_t result = -1;
  do {
    switch (call.kind) {
      case IoCall::Kind::kRead:
        result = ::preadv2(call.fd, call.buffers.data(), count, offset, call.flags);
        break;
      case IoCall::Kind::kWrite:
        result = ::pwritev2(call.fd, call.buffers.data(), count, offset, call.flags);
        break;
      case IoCall::Kind::kDataSync:
        result = ::fdatasync(call.fd);
        break;
      case IoCall::Kind::kAllocate:
        result = ::fallocate(call.fd, call.flags, offset, static_cast<off_t>(call.length));
        break;
    }
  } while (result < 0 && errno == EINTR);
  // One transfer moves less than 2 GiB.
  return static_cast<std::int32_t>(result < 0 ? -errno : result);
}

// Calls go to the threads in batches, by submit(); an eventfd tells of results.
class ThreadEngine final : public IoEngine {
 public:
  ~ThreadEngine() override {
    {
      const MutexLock lock(mutex_);
      stopping_ = true;
    }
    work_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

  [[nodiscard]] Result<> init() {
    TRY(ready_, make_eventfd());
    // Signals are for the thread that waits for them.
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    static_cast<void>(pthread_sigmask(SIG_SETMASK, &all, &before));
    int error = 0;
    try {
      for (std::size_t i = 0; i < kThreads; ++i) threads_.emplace_back([this] { run(); });
    } catch (const std::system_error& failure) {
      error = failure.code().value();
    }
    static_cast<void>(pthread_sigmask(SIG_SETMASK, &before, nullptr));
    if (error == 0) return success();
    errno = error;
    return fail_errno(ErrorKind::kHost, "cannot start a thread for disks");
  }

  void add(IoCall& call) override { added_.push_back(&call); }

  void submit() override {
    if (added_.empty()) return;
    {
      const MutexLock lock(mutex_);
      waiting_.insert(waiting_.end(), added_.begin(), added_.end());
    }
    if (added_.size() == 1) {
      work_.notify_one();
    } else {
      work_.notify_all();
    }
    added_.clear();
  }

  std::size_t reap(std::span<IoCall*> done) override {
    const MutexLock lock(mutex_);
    std::size_t count = 0;
    while (count < done.size() && !done_.empty()) {
      done[count++] = done_.back();
      done_.pop_back();
    }
    if (signalled_ && done_.empty()) {
      std::uint64_t value = 0;
      if (::read(ready_.get(), &value, sizeof value) != sizeof value) std::abort();
      signalled_ = false;
    }
    return count;
  }

  void wait() override VMM_NO_THREAD_SAFETY_ANALYSIS {
    const MutexLock lock(mutex_);
    finished_.wait(mutex_, [this] { return !done_.empty(); });
  }

  [[nodiscard]] const Fd& ready_fd() const override { return ready_; }

 private:
  void run() VMM_NO_THREAD_SAFETY_ANALYSIS {
    const MutexLock lock(mutex_);
    for (;;) {
      work_.wait(mutex_, [this] { return stopping_ || !waiting_.empty(); });
      if (waiting_.empty()) return;
      IoCall* call = waiting_.front();
      waiting_.pop_front();
      mutex_.unlock();
      call->result = make_call(*call);
      mutex_.lock();
      done_.push_back(call);
      if (!signalled_) signal_eventfd(ready_);
      signalled_ = true;
      finished_.notify_one();
    }
  }

  Fd ready_;
  std::vector<IoCall*> added_;  // by the caller, not yet submitted

  Mutex mutex_;
  std::condition_variable_any work_;
  std::condition_variable_any finished_;
  std::deque<IoCall*> waiting_ VMM_GUARDED_BY(mutex_);
  std::vector<IoCall*> done_ VMM_GUARDED_BY(mutex_);
  bool signalled_ VMM_GUARDED_BY(mutex_) = false;
  bool stopping_ VMM_GUARDED_BY(mutex_) = false;
  std::vector<std::thread> threads_;
};

}  // namespace

Result<std::unique_ptr<IoEngine>> make_thread_engine() {
  auto engine = std::make_unique<ThreadEngine>();
  TRY(engine->init());
  return std::unique_ptr<IoEngine>(std::move(engine));
}

}  // namespace vmm
