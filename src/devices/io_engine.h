#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "base/fd.h"
#include "base/result.h"

namespace vmm {

// A system call on a file that an IoEngine makes in the background. The caller fills it in, and
// leaves it and the buffers alone until the engine returns it.
struct IoCall {
  enum class Kind : std::uint8_t { kRead, kWrite, kDataSync, kAllocate };

  Kind kind = Kind::kRead;
  int flags = 0;  // RWF_* of a write, FALLOC_FL_* of an allocation
  int fd = -1;
  std::uint64_t offset = 0;        // bytes
  std::uint64_t length = 0;        // of an allocation
  std::span<const iovec> buffers;  // of reads and writes, at most IOV_MAX
  std::int32_t result = 0;         // bytes, or a negative errno
};

// Makes system calls on files without blocking the caller. Transfers may be short, as those of
// readv(2) may. Not thread-safe: the caller's lock guards it, but different threads may use it.
class IoEngine {
 public:
  IoEngine() = default;
  IoEngine(const IoEngine&) = delete;
  IoEngine& operator=(const IoEngine&) = delete;
  // Nothing may be under way.
  virtual ~IoEngine() = default;

  // Takes a call, which starts with submit() at the latest. At most as many may be under way as the
  // engine was made for.
  virtual void add(IoCall& call) = 0;
  virtual void submit() = 0;
  // Takes back calls that are done, in no order, at most as many as fit; returns how many.
  [[nodiscard]] virtual std::size_t reap(std::span<IoCall*> done) = 0;
  // Blocks until reap() has something to return. Something must be under way, all of it submitted.
  virtual void wait() = 0;
  // Readable while reap() has something to return; now and then while it has not.
  [[nodiscard]] virtual const Fd& ready_fd() const = 0;
};

// io_uring, for up to `depth` calls under way. Error where the kernel does not have it or does not
// let this process have it.
[[nodiscard]] Result<std::unique_ptr<IoEngine>> make_uring_engine(unsigned depth);
// Threads that make the calls one by one. Error where no thread can be started.
[[nodiscard]] Result<std::unique_ptr<IoEngine>> make_thread_engine();
// io_uring, or threads where that is not to be had.
[[nodiscard]] Result<std::unique_ptr<IoEngine>> make_io_engine(unsigned depth);

}  // namespace vmm
