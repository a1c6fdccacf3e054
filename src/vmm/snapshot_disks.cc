#include "vmm/snapshot_disks.h"

#include "base/log.h"

namespace vmm {

using migration::SnapshotDisk;

Result<std::vector<SnapshotDisk>> save_disks(const GuestConfig& config,
                                             const GuestResources& resources) {
  std::vector<SnapshotDisk> disks;
  for (std::size_t n = 0; n < config.disks.size(); ++n) {
    if (config.disks[n].readonly) continue;
    const auto& image = *resources.disks[n];
    TRY(image.flush());
    TRY(const auto stamp, image.stamp());
    disks.push_back(
        {config.disks[n].id, stamp.size, stamp.mtime_ns.has_value(), stamp.mtime_ns.value_or(0)});
  }
  return disks;
}

Result<> check_disks_unchanged(std::span<const SnapshotDisk> disks, const GuestConfig& config,
                               const GuestResources& resources) {
  for (std::size_t n = 0; n < config.disks.size(); ++n) {
    if (config.disks[n].readonly) continue;
    if (disks.empty())
      return fail(ErrorKind::kFailed, "disk {}: not in the snapshot", config.disks[n].id);
    const auto& disk = disks.front();
    disks = disks.subspan(1);
    const auto& image = *resources.disks[n];
    TRY(const auto stamp, image.stamp());
    if (!stamp.mtime_ns || !disk.dated) {
      log(LogLevel::kWarning,
          "disk {}: whether {} has changed since the snapshot cannot be seen, as block devices do "
          "not tell",
          disk.id, image.path());
    } else if (*stamp.mtime_ns != disk.mtime_ns) {
      return fail(ErrorKind::kFailed,
                  "disk {}: {} has changed since the snapshot was made, whose guest would find "
                  "another disk than it left",
                  disk.id, image.path());
    }
    if (stamp.size != disk.size) {
      return fail(ErrorKind::kFailed, "disk {}: {} had {} bytes in the snapshot, and has {}",
                  disk.id, image.path(), disk.size, stamp.size);
    }
  }
  return success();
}

}  // namespace vmm
