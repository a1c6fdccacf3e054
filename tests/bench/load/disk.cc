#include <fcntl.h>
#include <liburing.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include <vector>

#include "base/fd.h"
#include "base/mapping.h"
#include "load/loads.h"
#include "load/measured.h"

namespace vmm::load {
namespace {

constexpr std::uint64_t kSeed = 0x9e37'79b9'7f4a'7c15;
constexpr std::size_t kPageBytes = 4096;

bool writes(Access access) {
  return access == Access::kRandomWrite || access == Access::kWrite;
}

// Which block comes next. The sequence is the same in every run.
class Blocks {
 public:
  Blocks(Access access, std::uint64_t count)
      : random_(access == Access::kRandomRead || access == Access::kRandomWrite), count_(count) {}

  std::uint64_t next() {
    if (!random_) return sequential_++ % count_;
    state_ ^= state_ << 13;
    state_ ^= state_ >> 7;
    state_ ^= state_ << 17;
    return state_ % count_;
  }

 private:
  bool random_;
  std::uint64_t count_;
  std::uint64_t sequential_ = 0;
  std::uint64_t state_ = kSeed;
};

auto uring_error(const char* what, int error) {
  errno = -error;
  return fail_errno(ErrorKind::kFailed, "{}", what);
}

// An io_uring with one registered file and as many registered buffers as requests under way.
class Ring {
 public:
  [[nodiscard]] static Result<Ring> create(const DiskLoad& load, const Fd& file) {
    const std::size_t slot = (load.block_bytes + kPageBytes - 1) / kPageBytes * kPageBytes;
    Ring ring;
    TRY(ring.buffers_, Mapping::anonymous(slot * load.depth, kPageBytes));
    for (std::uint32_t i = 0; i < load.depth; ++i) {
      ring.parts_.push_back({ring.buffers_.data() + slot * i, load.block_bytes});
    }
    auto* uring = new io_uring{};
    if (const int error = io_uring_queue_init(load.depth, uring, 0); error < 0) {
      delete uring;
      return uring_error("set up io_uring", error);
    }
    ring.uring_.reset(uring);
    if (const int error = io_uring_register_buffers(uring, ring.parts_.data(), load.depth);
        error < 0) {
      return uring_error("register buffers", error);
    }
    const int descriptor = file.get();
    if (const int error = io_uring_register_files(uring, &descriptor, 1); error < 0) {
      return uring_error("register the file", error);
    }
    return ring;
  }

  // Does `count` requests, as many at once as there are buffers.
  [[nodiscard]] Result<> run(const DiskLoad& load, Blocks& blocks, std::uint64_t count) {
    std::uint64_t done = 0;
    std::uint64_t asked = 0;
    for (; asked < count && asked < parts_.size(); ++asked) {
      prepare(load, blocks.next(), static_cast<unsigned>(asked));
    }
    while (done < count) {
      if (const int error = io_uring_submit_and_wait(uring_.get(), 1); error < 0) {
        return uring_error("submit", error);
      }
      io_uring_cqe* entry = nullptr;
      while (io_uring_peek_cqe(uring_.get(), &entry) == 0) {
        const auto slot = static_cast<unsigned>(io_uring_cqe_get_data64(entry));
        const int result = entry->res;
        io_uring_cqe_seen(uring_.get(), entry);
        if (result < 0) return uring_error("a request", result);
        if (static_cast<std::uint32_t>(result) != load.block_bytes) {
          return fail(ErrorKind::kFailed, "a request moved {} of {} bytes", result,
                      load.block_bytes);
        }
        ++done;
        if (asked == count) continue;
        ++asked;
        prepare(load, blocks.next(), slot);
      }
    }
    return success();
  }

 private:
  struct Exit {
    void operator()(io_uring* uring) const {
      io_uring_queue_exit(uring);
      delete uring;
    }
  };

  void prepare(const DiskLoad& load, std::uint64_t block, unsigned slot) {
    io_uring_sqe* entry = io_uring_get_sqe(uring_.get());  // there are as many as buffers
    const iovec& part = parts_[slot];
    const auto index = static_cast<int>(slot);
    const std::uint64_t offset = block * load.block_bytes;
    if (writes(load.access)) {
      io_uring_prep_write_fixed(entry, 0, part.iov_base, load.block_bytes, offset, index);
    } else {
      io_uring_prep_read_fixed(entry, 0, part.iov_base, load.block_bytes, offset, index);
    }
    io_uring_sqe_set_flags(entry, IOSQE_FIXED_FILE);
    io_uring_sqe_set_data64(entry, slot);
  }

  Mapping buffers_;
  std::vector<iovec> parts_;
  std::unique_ptr<io_uring, Exit> uring_;
};

Result<std::uint64_t> size_of(const Fd& file, const std::string& path) {
  struct stat status {};
  std::uint64_t bytes = 0;
  if (::fstat(file.get(), &status) != 0) return fail_errno(ErrorKind::kFailed, "stat {}", path);
  if (!S_ISBLK(status.st_mode)) return static_cast<std::uint64_t>(status.st_size);
  if (::ioctl(file.get(), BLKGETSIZE64, &bytes) != 0) {
    return fail_errno(ErrorKind::kFailed, "size of {}", path);
  }
  return bytes;
}

}  // namespace

Result<> run_disk(const DiskLoad& load) {
  TRY(const Fd file, open_file(load.path, (writes(load.access) ? O_RDWR : O_RDONLY) | O_DIRECT));
  TRY(const auto bytes, size_of(file, load.path));
  if (bytes < load.block_bytes) {
    return fail(ErrorKind::kFailed, "{} has {} bytes, less than a block", load.path, bytes);
  }
  Blocks blocks(load.access, bytes / load.block_bytes);
  TRY(Ring ring, Ring::create(load, file));
  return measured(load.name, load.count,
                  [&](std::uint64_t count) { return ring.run(load, blocks, count); });
}

}  // namespace vmm::load
