#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "base/fd.h"
#include "base/result.h"

namespace vmm {

inline constexpr std::uint64_t kSectorSize = 512;

struct DiskImageOptions {
  std::string path;
  bool read_only = false;
  bool direct = false;  // past the host's page cache (O_DIRECT)
};

// What the kernel wants of transfers; 1 where it wants nothing.
struct TransferAlignment {
  std::uint32_t memory = 1;  // of addresses
  std::uint32_t block = 1;   // of offsets, and of the length of every part
};

// By what can be told whether an image has changed.
struct ImageStamp {
  std::uint64_t size = 0;                // bytes
  std::optional<std::int64_t> mtime_ns;  // of the last change, since 1970; a block device has none
  [[nodiscard]] bool operator==(const ImageStamp&) const = default;
};

// A raw disk image, a file or a block device, open and locked: shared for a read-only guest,
// exclusive for one that writes (open file description locks, which end with this process). It
// outlives the device that uses it, which is rebuilt when the guest reboots.
//
//   open()          release()                prepare()
//  --------> held <-------------> not held <-----------      only a held image is read and written
//                  reacquire()
//
// Not thread-safe, but fd(), held() and what open() has found may be used from any thread as long
// as neither release() nor reacquire() runs.
class DiskImage {
 public:
  // Opens and locks an image. Errors name the path. They are of kind kFailed where another process
  // has locked it, else kUsage: it is missing, neither a regular file nor a block device, empty or
  // no multiple of the sector size (or of the block size that direct needs), write-protected though
  // the guest is to write, or on a file system without direct.
  [[nodiscard]] static Result<std::unique_ptr<DiskImage>> open(const DiskImageOptions& options);
  // Looks at an image that another process, perhaps on another host, still holds: everything that
  // open() checks but the lock. The file is closed again: reacquire() opens it, so that nothing of
  // it is cached here that its present owner goes on to change. Errors are of kind kUsage.
  [[nodiscard]] static Result<std::unique_ptr<DiskImage>> prepare(const DiskImageOptions& options);
  ~DiskImage();
  DiskImage(const DiskImage&) = delete;
  DiskImage& operator=(const DiskImage&) = delete;

  [[nodiscard]] const std::string& path() const { return options_.path; }
  [[nodiscard]] bool read_only() const { return options_.read_only; }
  [[nodiscard]] bool direct() const { return options_.direct; }
  [[nodiscard]] std::uint64_t size() const { return size_; }  // bytes
  [[nodiscard]] const TransferAlignment& alignment() const { return alignment_; }
  // The unit of the guest's requests in bytes: a sector, or what direct needs where that is more.
  [[nodiscard]] std::uint32_t block_size() const;
  [[nodiscard]] const Fd& fd() const { return fd_; }
  [[nodiscard]] bool held() const { return held_; }

  // Makes all that was written durable; of a held image whose requests have been drained.
  [[nodiscard]] Result<> flush() const;
  // Of a held image.
  [[nodiscard]] Result<ImageStamp> stamp() const;
  // Makes all that was written durable and gives the lock up, so that another process may open the
  // image, and this one no longer touches it. On error the image is still held. Requests must have
  // been drained.
  [[nodiscard]] Result<> release();
  // Takes the lock, of an image that was prepared or released. Error where somebody else has it, or
  // has changed the image's size.
  [[nodiscard]] Result<> reacquire();

 private:
  DiskImage(DiskImageOptions options, Fd fd);
  [[nodiscard]] static Result<Fd> open_path(const DiskImageOptions& options);
  [[nodiscard]] Result<> check();
  [[nodiscard]] Result<> lock() const;
  void unlock() const;

  DiskImageOptions options_;
  Fd fd_;
  std::uint64_t size_ = 0;
  TransferAlignment alignment_;
  bool held_ = false;
};

}  // namespace vmm
