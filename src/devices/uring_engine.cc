#include <liburing.h>
#include <linux/falloc.h>
#include <sched.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <utility>

#include "base/log.h"
#include "devices/io_engine.h"

namespace vmm {
namespace {

// Owner of a ring.
class Ring {
 public:
  Ring() = default;
  Ring(const Ring&) = delete;
  Ring& operator=(const Ring&) = delete;
  ~Ring() {
    if (valid_) ::io_uring_queue_exit(&ring_);
  }
  // 0 or an errno.
  [[nodiscard]] int setup(unsigned entries, unsigned flags) {
    const int result = ::io_uring_queue_init(entries, &ring_, flags);
    valid_ = result == 0;
    return -result;
  }
  [[nodiscard]] io_uring* get() { return &ring_; }

 private:
  io_uring ring_{};
  bool valid_ = false;
};

// One io_uring_enter() starts all calls that were added since the last one, and the completions are
// read from shared memory. The ring itself is what the event loop watches: it is readable while
// completions wait, so that no eventfd has to be read.
//
// Files are not registered with the ring. That would save a little per call, but the ring is torn
// down in the background after its process was killed, and until then would keep the image open and
// its lock held.
class UringEngine final : public IoEngine {
 public:
  [[nodiscard]] Result<> init(unsigned depth) {
    // Completions are posted by the thread that submitted, at its next way through the kernel, in
    // which it waits for events most of the time: it need not be interrupted for that. (A ring for
    // a single submitter would be cheaper still, but a reset may come from any thread.)
    int error = ring_.setup(depth, IORING_SETUP_COOP_TASKRUN);
    if (error == EINVAL) error = ring_.setup(depth, 0);  // Linux before 5.19
    if (error != 0) {
      errno = error;
      return fail_errno(ErrorKind::kHost, "cannot set up an io_uring");
    }
    ready_ = Fd(::fcntl(ring_.get()->ring_fd, F_DUPFD_CLOEXEC, 0));
    if (!ready_.valid()) return fail_errno(ErrorKind::kHost, "cannot duplicate a descriptor");
    return success();
  }

  void add(IoCall& call) override {
    io_uring_sqe* entry = ::io_uring_get_sqe(ring_.get());
    if (entry == nullptr) {
      submit();
      entry = ::io_uring_get_sqe(ring_.get());
      if (entry == nullptr) std::abort();
    }
    switch (call.kind) {
      case IoCall::Kind::kRead:
        ::io_uring_prep_readv2(entry, call.fd, call.buffers.data(),
                               static_cast<unsigned>(call.buffers.size()), call.offset, call.flags);
        break;
      case IoCall::Kind::kWrite:
        ::io_uring_prep_writev2(entry, call.fd, call.buffers.data(),
                                static_cast<unsigned>(call.buffers.size()), call.offset,
                                call.flags);
        break;
      case IoCall::Kind::kDataSync:
        ::io_uring_prep_fsync(entry, call.fd, IORING_FSYNC_DATASYNC);
        break;
      case IoCall::Kind::kAllocate:
        ::io_uring_prep_fallocate(entry, call.fd, call.flags, static_cast<off_t>(call.offset),
                                  static_cast<off_t>(call.length));
        break;
    }
    ::io_uring_sqe_set_data(entry, &call);
  }

  void submit() override {
    while (::io_uring_sq_ready(ring_.get()) != 0) {
      const int result = ::io_uring_submit(ring_.get());
      if (result >= 0 || result == -EINTR) continue;
      // The kernel is short of memory, which it is about to make.
      if (result == -EAGAIN) {
        ::sched_yield();
        continue;
      }
      log(LogLevel::kError, "io_uring_enter: errno {}", -result);
      std::abort();
    }
  }

  std::size_t reap(std::span<IoCall*> done) override {
    std::size_t count = 0;
    unsigned head = 0;
    io_uring_cqe* completion = nullptr;
    io_uring_for_each_cqe(ring_.get(), head, completion) {
      if (count == done.size()) break;
      auto* call = static_cast<IoCall*>(::io_uring_cqe_get_data(completion));
      call->result = completion->res;
      done[count++] = call;
    }
    ::io_uring_cq_advance(ring_.get(), static_cast<unsigned>(count));
    return count;
  }

  void wait() override {
    io_uring_cqe* completion = nullptr;
    while (::io_uring_wait_cqe(ring_.get(), &completion) == -EINTR) {
    }
  }

  [[nodiscard]] const Fd& ready_fd() const override { return ready_; }

 private:
  Ring ring_;
  Fd ready_;
};

}  // namespace

Result<std::unique_ptr<IoEngine>> make_uring_engine(unsigned depth) {
  auto engine = std::make_unique<UringEngine>();
  TRY(engine->init(depth));
  return std::unique_ptr<IoEngine>(std::move(engine));
}

Result<std::unique_ptr<IoEngine>> make_io_engine(unsigned depth) {
  auto engine = make_uring_engine(depth);
  if (engine) return engine;
  log(LogLevel::kInfo, "{}; disks use threads instead", engine.error().message());
  return make_thread_engine();
}

}  // namespace vmm
