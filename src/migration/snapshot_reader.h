#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "memory/guest_memory.h"
#include "migration/manifest.h"
#include "migration/snapshot_format.h"

namespace vmm::migration {

// A snapshot file, of which nothing is taken on trust: all but the guest's memory is read and
// checked when it is opened, and memory when it is asked for. The machine's state is opaque here.
class SnapshotReader {
 public:
  // Errors name the file, and where in it something is wrong: kUsage where there is no such file,
  // kFailed where it is not whole.
  [[nodiscard]] static Result<SnapshotReader> open(const std::string& path);
  // The same of a file that is open; name is what errors call it.
  [[nodiscard]] static Result<SnapshotReader> open(Fd fd, std::string name);

  [[nodiscard]] const Manifest& manifest() const { return manifest_; }
  [[nodiscard]] std::span<const SnapshotDisk> disks() const { return disks_; }
  [[nodiscard]] std::span<const std::byte> state() const { return state_; }
  // Chunks of guest memory, in order of address.
  [[nodiscard]] std::span<const SnapshotChunk> index() const { return index_; }
  [[nodiscard]] std::uint64_t pages() const { return header_.pages; }

  // Reads the pages of a chunk that are in the file, one behind the other, into buffer, which has
  // kSnapshotChunkBytes, and returns that part of it. Error (kFailed, naming the offset) where they
  // are not what was written. Threads: any.
  [[nodiscard]] Result<std::span<const std::byte>> read(std::size_t chunk,
                                                        std::span<std::byte> buffer) const;

 private:
  SnapshotReader(Fd fd, std::string name) : fd_(std::move(fd)), name_(std::move(name)) {}
  [[nodiscard]] Result<> load();
  [[nodiscard]] Result<> read_at(std::uint64_t offset, std::span<std::byte> bytes) const;
  [[nodiscard]] Result<std::vector<std::byte>> read_part(SnapshotPart part) const;
  [[nodiscard]] std::string place(SnapshotPart part) const;

  Fd fd_;
  std::string name_;
  SnapshotHeader header_;
  Manifest manifest_;
  std::vector<SnapshotDisk> disks_;
  std::vector<std::byte> state_;
  std::vector<SnapshotChunk> index_;
  std::vector<std::uint64_t> offsets_;  // of the chunks' pages
};

// Loads all of a guest's memory, which must be as new. Error where the memory has another size
// than the snapshot's, and as read().
[[nodiscard]] Result<> load_snapshot(const SnapshotReader& reader, GuestMemory& memory);

}  // namespace vmm::migration
