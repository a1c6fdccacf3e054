#include "devices/disk_image.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

namespace vmm {
namespace {

constexpr std::uint32_t kLargestBlock = 4096;
constexpr mode_t kAnyWriteBit = 0222;

struct FileKind {
  bool block_device;
  std::uint64_t size;  // of a regular file, in bytes
};

// path is looked at before it is opened, too: opening a pipe or a tape has effects.
Result<FileKind> check_kind(const struct stat& status, const DiskImageOptions& options) {
  const bool block_device = S_ISBLK(status.st_mode);
  if (!block_device && !S_ISREG(status.st_mode)) {
    return fail(ErrorKind::kUsage, "disk image {} is neither a regular file nor a block device",
                options.path);
  }
  // Root may write to any file; one without write permission was not meant for that.
  if (!options.read_only && (status.st_mode & kAnyWriteBit) == 0) {
    return fail(ErrorKind::kUsage, "disk image {} is write-protected, and the guest is to write",
                options.path);
  }
  return FileKind{block_device, static_cast<std::uint64_t>(status.st_size)};
}

Result<std::uint64_t> image_size(const Fd& fd, const DiskImageOptions& options) {
  struct stat status {};
  if (::fstat(fd.get(), &status) != 0) {
    return fail_errno(ErrorKind::kUsage, "cannot look at disk image {}", options.path);
  }
  TRY(const FileKind kind, check_kind(status, options));
  if (!kind.block_device) return kind.size;
  std::uint64_t size = 0;
  if (::ioctl(fd.get(), BLKGETSIZE64, &size) != 0) {
    return fail_errno(ErrorKind::kUsage, "cannot get the size of block device {}", options.path);
  }
  return size;
}

// Tries it out: a read of one sector to an address that is no more aligned than that.
bool takes_sectors(const Fd& fd) {
  alignas(kLargestBlock) std::array<std::byte, 2 * kSectorSize> buffer;
  return ::pread(fd.get(), buffer.data() + kSectorSize, kSectorSize, 0) ==
         static_cast<ssize_t>(kSectorSize);
}

TransferAlignment direct_alignment(const Fd& fd) {
  struct statx status {};
  const bool known = ::statx(fd.get(), "", AT_EMPTY_PATH, STATX_DIOALIGN, &status) == 0 &&
                     (status.stx_mask & STATX_DIOALIGN) != 0 && status.stx_dio_offset_align != 0;
  if (known) return {status.stx_dio_mem_align, status.stx_dio_offset_align};
  int sector = 0;
  if (::ioctl(fd.get(), BLKSSZGET, &sector) == 0 && sector > 0) {
    return {static_cast<std::uint32_t>(sector), static_cast<std::uint32_t>(sector)};
  }
  const std::uint32_t block = takes_sectors(fd) ? kSectorSize : kLargestBlock;
  return {block, block};
}

}  // namespace

DiskImage::DiskImage(DiskImageOptions options, Fd fd)
    : options_(std::move(options)), fd_(std::move(fd)) {}

DiskImage::~DiskImage() {
  // Closing would do, but not before the kernel has let go of the last request's reference.
  if (held_) unlock();
}

Result<Fd> DiskImage::open_path(const DiskImageOptions& options) {
  struct stat status {};
  if (::stat(options.path.c_str(), &status) != 0) {
    return fail_errno(ErrorKind::kUsage, "cannot open disk image {}", options.path);
  }
  TRY(check_kind(status, options));
  const int access = options.read_only ? O_RDONLY : O_RDWR;
  Fd fd(::open(options.path.c_str(), access | O_CLOEXEC | (options.direct ? O_DIRECT : 0)));
  if (!fd.valid()) {
    return fail_errno(ErrorKind::kUsage, "cannot open disk image {} {}{}", options.path,
                      options.read_only ? "read-only" : "read-write",
                      options.direct ? " with direct I/O" : "");
  }
  return fd;
}

Result<std::unique_ptr<DiskImage>> DiskImage::open(const DiskImageOptions& options) {
  TRY(auto fd, open_path(options));
  std::unique_ptr<DiskImage> image(new DiskImage(options, std::move(fd)));
  TRY(image->lock());
  image->held_ = true;
  TRY(image->check());
  return image;
}

Result<std::unique_ptr<DiskImage>> DiskImage::prepare(const DiskImageOptions& options) {
  TRY(auto fd, open_path(options));
  std::unique_ptr<DiskImage> image(new DiskImage(options, std::move(fd)));
  TRY(image->check());
  image->fd_ = Fd();
  return image;
}

Result<> DiskImage::check() {
  TRY(size_, image_size(fd_, options_));
  if (size_ == 0 || size_ % kSectorSize != 0) {
    return fail(ErrorKind::kUsage,
                "disk image {} has {} bytes, which is not a non-zero multiple of {}", path(), size_,
                kSectorSize);
  }
  if (!direct()) return success();
  alignment_ = direct_alignment(fd_);
  if (size_ % alignment_.block != 0) {
    return fail(ErrorKind::kUsage,
                "disk image {} has {} bytes, and direct I/O there needs a multiple of {}", path(),
                size_, alignment_.block);
  }
  return success();
}

std::uint32_t DiskImage::block_size() const {
  return std::max(static_cast<std::uint32_t>(kSectorSize), alignment_.block);
}

Result<> DiskImage::lock() const {
  struct flock range {};
  range.l_type = read_only() ? F_RDLCK : F_WRLCK;
  range.l_whence = SEEK_SET;  // length 0 is to the end, wherever that is
  if (::fcntl(fd_.get(), F_OFD_SETLK, &range) == 0) return success();
  if (errno == EAGAIN || errno == EACCES) {
    return fail(ErrorKind::kFailed, "disk image {} is locked by another process", path());
  }
  return fail_errno(ErrorKind::kFailed, "cannot lock disk image {}", path());
}

void DiskImage::unlock() const {
  struct flock range {};
  range.l_type = F_UNLCK;
  range.l_whence = SEEK_SET;
  // Unlocking what this description has locked cannot fail.
  static_cast<void>(::fcntl(fd_.get(), F_OFD_SETLK, &range));
}

Result<> DiskImage::flush() const {
  if (!read_only() && ::fsync(fd_.get()) != 0) {
    return fail_errno(ErrorKind::kFailed, "cannot flush disk image {}", path());
  }
  return success();
}

Result<ImageStamp> DiskImage::stamp() const {
  struct stat status {};
  if (::fstat(fd_.get(), &status) != 0) {
    return fail_errno(ErrorKind::kFailed, "cannot look at disk image {}", path());
  }
  ImageStamp stamp;
  TRY(stamp.size, image_size(fd_, options_));
  if (S_ISREG(status.st_mode)) {
    constexpr std::int64_t kSecond = 1'000'000'000;
    stamp.mtime_ns = status.st_mtim.tv_sec * kSecond + status.st_mtim.tv_nsec;
  }
  return stamp;
}

Result<> DiskImage::release() {
  if (!held_) return success();
  TRY(flush());
  held_ = false;
  unlock();
  return success();
}

Result<> DiskImage::reacquire() {
  if (held_) return success();
  if (!fd_.valid()) {
    TRY(fd_, open_path(options_));
  }
  TRY(lock());
  const auto size = image_size(fd_, options_);
  if (!size || size.value() != size_) {
    unlock();
    if (!size) return fail(size.error());
    return fail(ErrorKind::kFailed, "disk image {} had {} bytes when it was given up, and now {}",
                path(), size_, size.value());
  }
  held_ = true;
  return success();
}

}  // namespace vmm
