#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/result.h"
#include "memory/guest_memory.h"
#include "memory/pagemap.h"
#include "migration/manifest.h"
#include "migration/snapshot_file.h"
#include "migration/snapshot_format.h"

namespace vmm::migration {

// How another thread follows and ends the writing of a snapshot.
struct SnapshotProgress {
  std::atomic<bool> stop = false;
  std::atomic<std::uint64_t> done_bytes = 0;  // of guest memory that has been looked at
};

// All of a guest but its memory.
struct SnapshotContents {
  Manifest manifest;
  std::vector<SnapshotDisk> disks;
  std::vector<std::byte> state;
};

// Writes a whole snapshot, but for SnapshotFile::commit(): of the guest's memory only pages that
// are not zero. The guest must stand still. Returns the bytes of the file. Errors: kInterrupted
// soon after progress.stop is set; a manifest that does not check(), a state that is too long; and
// those of the file and the pagemap.
[[nodiscard]] Result<std::uint64_t> write_snapshot(SnapshotFile& file,
                                                   const SnapshotContents& contents,
                                                   const GuestMemory& memory,
                                                   const Pagemap& pagemap,
                                                   SnapshotProgress& progress);

}  // namespace vmm::migration
