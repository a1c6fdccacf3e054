#include "migration/snapshot_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <string>
#include <utility>

namespace vmm::migration {

ssize_t SnapshotCalls::pwrite(int fd, std::span<const std::byte> data, off_t offset) {
  return ::pwrite(fd, data.data(), data.size(), offset);
}

int SnapshotCalls::fsync(int fd) {
  return ::fsync(fd);
}

int SnapshotCalls::rename(const char* from, const char* to, unsigned flags) {
  return ::renameat2(AT_FDCWD, from, AT_FDCWD, to, flags);
}

SnapshotFile::SnapshotFile(std::filesystem::path path, SnapshotCalls& calls)
    : path_(std::move(path)), calls_(calls) {}

SnapshotFile::~SnapshotFile() {
  if (!temporary_.empty()) static_cast<void>(::unlink(temporary_.c_str()));
}

Result<std::unique_ptr<SnapshotFile>> SnapshotFile::create(std::filesystem::path path,
                                                           SnapshotCalls& calls) {
  struct stat status {};
  if (::lstat(path.c_str(), &status) == 0 && !S_ISREG(status.st_mode)) {
    return fail(ErrorKind::kUsage, "{} is there and no regular file", path.string());
  }
  std::unique_ptr<SnapshotFile> file(new SnapshotFile(std::move(path), calls));
  std::string name = file->path_.string() + ".XXXXXX";
  file->fd_ = Fd(::mkostemp(name.data(), O_CLOEXEC));
  if (!file->fd_.valid()) {
    return fail_errno(ErrorKind::kUsage, "cannot make a file beside {}", file->path_.string());
  }
  file->temporary_ = std::move(name);
  return file;
}

Result<> SnapshotFile::write(std::uint64_t offset, std::span<const std::byte> data) {
  while (!data.empty()) {
    const ssize_t done = calls_.pwrite(fd_.get(), data, static_cast<off_t>(offset));
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) return fail_errno(ErrorKind::kFailed, "cannot write {}", path_.string());
    data = data.subspan(static_cast<std::size_t>(done));
    offset += static_cast<std::uint64_t>(done);
  }
  return success();
}

Result<> SnapshotFile::commit() {
  if (calls_.fsync(fd_.get()) != 0) {
    return fail_errno(ErrorKind::kFailed, "cannot make {} durable", path_.string());
  }
  const auto folder = path_.has_parent_path() ? path_.parent_path() : std::filesystem::path(".");
  TRY(const auto folder_fd, open_file(folder.string(), O_RDONLY | O_DIRECTORY));
  TRY(place());
  if (calls_.fsync(folder_fd.get()) != 0) {
    auto error =
        system_error(ErrorKind::kFailed, "cannot make the name of {} durable", path_.string());
    if (auto undone = undo(); !undone) error.add_context(undone.error().message());
    return fail(std::move(error));
  }
  if (placed_ != Placed::kExchanged) temporary_.clear();
  return success();  // what was exchanged goes with the temporary name
}

Result<> SnapshotFile::place() {
  const char* from = temporary_.c_str();
  const char* to = path_.c_str();
  if (calls_.rename(from, to, RENAME_NOREPLACE) == 0) {
    placed_ = Placed::kNew;
  } else if (errno == EEXIST && calls_.rename(from, to, RENAME_EXCHANGE) == 0) {
    // The old file lives on under the temporary name until the new one is there for good.
    placed_ = Placed::kExchanged;
  } else if (errno == EINVAL && calls_.rename(from, to, 0) == 0) {
    // A file system that only replaces, such as NFS.
    placed_ = Placed::kReplaced;
  } else {
    return fail_errno(ErrorKind::kFailed, "cannot rename {} to {}", temporary_.string(),
                      path_.string());
  }
  return success();
}

Result<> SnapshotFile::undo() {
  if (placed_ == Placed::kNew) {
    temporary_ = path_;
  } else if (placed_ == Placed::kReplaced) {
    temporary_.clear();
    return fail(ErrorKind::kFailed, "the file is complete, and gone perhaps after a power cut");
  } else if (calls_.rename(temporary_.c_str(), path_.c_str(), RENAME_EXCHANGE) != 0) {
    auto error = system_error(ErrorKind::kFailed, "what was {} before is now {}", path_.string(),
                              temporary_.string());
    temporary_.clear();
    return fail(std::move(error));
  }
  return success();
}

}  // namespace vmm::migration
