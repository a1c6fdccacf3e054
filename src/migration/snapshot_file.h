#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>

#include "base/fd.h"
#include "base/result.h"

namespace vmm::migration {

// The system calls that can fail while a snapshot is written, so that a test can make each of them
// do so. They return what the calls do, with errno.
class SnapshotCalls {
 public:
  SnapshotCalls() = default;
  SnapshotCalls(const SnapshotCalls&) = delete;
  SnapshotCalls& operator=(const SnapshotCalls&) = delete;
  virtual ~SnapshotCalls() = default;

  [[nodiscard]] virtual ssize_t pwrite(int fd, std::span<const std::byte> data, off_t offset);
  [[nodiscard]] virtual int fsync(int fd);
  // renameat2(2).
  [[nodiscard]] virtual int rename(const char* from, const char* to, unsigned flags);
};

// A file that appears under its name when it is complete and durable, or not at all: until then it
// is a temporary file of mode 0600 in the same folder. A file that had the name stays as it is
// until then, and where anything fails.
class SnapshotFile {
 public:
  // Makes the temporary file. Error (kUsage) where path is neither free nor a regular file, or its
  // folder cannot be written to. calls must outlive it.
  [[nodiscard]] static Result<std::unique_ptr<SnapshotFile>> create(std::filesystem::path path,
                                                                    SnapshotCalls& calls);
  SnapshotFile(const SnapshotFile&) = delete;
  SnapshotFile& operator=(const SnapshotFile&) = delete;
  // Removes the temporary file where there still is one.
  ~SnapshotFile();

  // Writes all of data there.
  [[nodiscard]] Result<> write(std::uint64_t offset, std::span<const std::byte> data);
  // Makes the file durable and gives it its name; once, at the end.
  [[nodiscard]] Result<> commit();

 private:
  SnapshotFile(std::filesystem::path path, SnapshotCalls& calls);
  [[nodiscard]] Result<> place();
  [[nodiscard]] Result<> undo();

  // How the file has got its name.
  enum class Placed { kNot, kNew, kExchanged, kReplaced };

  const std::filesystem::path path_;
  SnapshotCalls& calls_;
  std::filesystem::path temporary_;  // empty where there is none
  Fd fd_;
  Placed placed_ = Placed::kNot;
};

}  // namespace vmm::migration
