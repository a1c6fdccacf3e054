#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "memory/guest_memory.h"
#include "memory/pagemap.h"
#include "migration/snapshot_file.h"
#include "migration/snapshot_reader.h"
#include "migration/snapshot_writer.h"
#include "migration_manifest_support.h"
#include "vmm_support.h"

namespace vmm::migration {

inline constexpr std::uint64_t kSnapshotBase = 0x4000'0000;

// Makes the n-th call of those that write a snapshot fail, from 1 on, and all after it that write.
class FailingCalls final : public SnapshotCalls {
 public:
  FailingCalls(int failing, int error) : failing_(failing), error_(error) {}

  ssize_t pwrite(int fd, std::span<const std::byte> data, off_t offset) override {
    if (fails()) {
      errno = error_;
      return -1;
    }
    // As on a disk that fills up: the rest fails.
    return SnapshotCalls::pwrite(fd, data.first((data.size() + 1) / 2), offset);
  }
  int fsync(int fd) override { return fails() ? refuse() : SnapshotCalls::fsync(fd); }
  int rename(const char* from, const char* to, unsigned flags) override {
    return fails() ? refuse() : SnapshotCalls::rename(from, to, flags);
  }

  [[nodiscard]] int calls() const { return calls_; }

 private:
  bool fails() { return ++calls_ == failing_; }
  int refuse() const {
    errno = error_;
    return -1;
  }

  const int failing_;
  const int error_;
  int calls_ = 0;
};

inline GuestMemory snapshot_memory(std::uint64_t bytes) {
  auto memory = GuestMemory::create(kSnapshotBase, bytes, Backing::kAnonymous).value();
  // Small pages, so that each is touched by itself.
  ::madvise(memory.regions()[0].bytes.data(), bytes, MADV_NOHUGEPAGE);
  return memory;
}

inline std::span<std::byte> ram_of(const GuestMemory& memory) {
  return memory.regions()[0].bytes;
}

// What page `number` of the guest of a rig is full of.
inline std::byte page_value(std::uint64_t number) {
  return static_cast<std::byte>(number % 251 + 1);
}

// A guest that is saved and read again, from a file in a folder of its own.
class SnapshotRig {
 public:
  // Every page in `steps` has contents; the first one without was touched and is zero.
  explicit SnapshotRig(std::uint64_t bytes = 4 << 20, std::uint64_t steps = 3)
      : memory(snapshot_memory(bytes)), steps_(steps) {
    contents.manifest = full_manifest();
    contents.manifest.memory = bytes;
    contents.disks = {{"root", 1ULL << 30, true, 1'700'000'000'000'000'001}};
    contents.state.assign(1000, std::byte{0x3c});
    const auto ram = ram_of(memory);
    for (std::uint64_t page = 0; page < ram.size() / kPageSize; page += steps) {
      std::ranges::fill(ram.subspan(page * kPageSize, kPageSize), page_value(page));
    }
    if (steps > 1) ram[kPageSize] = std::byte{0};
  }

  [[nodiscard]] std::byte expected(std::uint64_t page) const {
    return page % steps_ == 0 ? page_value(page) : std::byte{0};
  }
  // Writes the file; error of the first call that failed.
  [[nodiscard]] Result<std::uint64_t> save(SnapshotCalls& calls) {
    TRY(auto file, SnapshotFile::create(path, calls));
    TRY(const auto bytes,
        write_snapshot(*file, contents, memory, Pagemap::open().value(), progress));
    TRY(file->commit());
    return bytes;
  }
  void save() {
    SnapshotCalls calls;
    const auto saved = save(calls);
    ASSERT_TRUE(saved) << saved.error().message();
    ASSERT_EQ(saved.value(), std::filesystem::file_size(path));
  }
  [[nodiscard]] Result<SnapshotReader> open() const { return SnapshotReader::open(path); }
  [[nodiscard]] std::shared_ptr<const SnapshotReader> reader() const {
    return std::make_shared<const SnapshotReader>(open().value());
  }
  // Files in the folder.
  [[nodiscard]] std::vector<std::string> files() const {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(dir.path())) {
      names.push_back(entry.path().filename().string());
    }
    return names;
  }
  void flip(std::uint64_t offset) const {
    auto bytes = contents_of(path);
    bytes[offset] = static_cast<char>(bytes[offset] ^ 4);
    dir.file("snap", bytes);
  }

  TempDir dir;
  std::filesystem::path path = dir / "snap";
  GuestMemory memory;
  SnapshotContents contents;
  SnapshotProgress progress;

 private:
  std::uint64_t steps_;
};

}  // namespace vmm::migration
