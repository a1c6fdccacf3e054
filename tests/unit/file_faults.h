#pragma once

#include <atomic>
#include <filesystem>
#include <string>

namespace vmm {

// Makes the system calls on files of one folder fail, in all of the program's threads: the one of a
// number, or that one and all that follow. One object at a time. Calls are open(), write(),
// fsync(), flock(), link(), rename() and unlink().
class FileFaults {
 public:
  enum class How { kOnce, kFromThereOn };

  // number: from 0.
  FileFaults(std::filesystem::path folder, int number, int error, How how);
  FileFaults(const FileFaults&) = delete;
  FileFaults& operator=(const FileFaults&) = delete;
  ~FileFaults();

  // Whether it came to a failure.
  [[nodiscard]] bool fired() const { return fired_; }
  // Whether a file could not be removed, which then may be left behind.
  [[nodiscard]] bool kept_a_file() const { return kept_a_file_; }

  // Of the wrapped calls: whether the one on this path fails, with errno set.
  [[nodiscard]] bool fails(const std::string& path, bool removes);

 private:
  const std::string folder_;
  const int number_;
  const int error_;
  const How how_;
  std::atomic<int> calls_ = 0;
  std::atomic<bool> fired_ = false;
  std::atomic<bool> kept_a_file_ = false;
};

}  // namespace vmm
