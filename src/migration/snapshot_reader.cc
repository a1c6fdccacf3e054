#include "migration/snapshot_reader.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <utility>

namespace vmm::migration {

Result<SnapshotReader> SnapshotReader::open(const std::string& path) {
  // Opening a pipe would wait for its writer.
  TRY(auto fd, open_file(path, O_RDONLY | O_NONBLOCK, 0, ErrorKind::kUsage));
  return open(std::move(fd), path);
}

Result<SnapshotReader> SnapshotReader::open(Fd fd, std::string name) {
  SnapshotReader reader(std::move(fd), name);
  TRY(with_context(reader.load(), std::move(name)));
  return reader;
}

Result<> SnapshotReader::load() {
  struct stat status {};
  if (::fstat(fd_.get(), &status) != 0) return fail_errno(ErrorKind::kFailed, "fstat failed");
  if (!S_ISREG(status.st_mode)) return fail(ErrorKind::kUsage, "this is no regular file");
  const auto size = static_cast<std::uint64_t>(status.st_size);
  if (size < kSnapshotHeaderBytes) {
    return fail(ErrorKind::kFailed, "this is no snapshot: it ends at offset {}", size);
  }
  std::array<std::byte, kSnapshotHeaderBytes> head{};
  TRY(read_at(0, head));
  TRY(header_, decode_snapshot_header(head));
  if (size != header_.file_bytes()) {
    return fail(ErrorKind::kFailed, "it ends at offset {}, and not at {}", size,
                header_.file_bytes());
  }
  TRY(const auto manifest, read_part(SnapshotPart::kManifest));
  TRY(manifest_, with_context(decode_manifest(manifest), place(SnapshotPart::kManifest)));
  TRY(const auto disks, read_part(SnapshotPart::kDisks));
  TRY(disks_, with_context(decode_snapshot_disks(disks, manifest_), place(SnapshotPart::kDisks)));
  TRY(state_, read_part(SnapshotPart::kState));
  TRY(const auto index, read_part(SnapshotPart::kIndex));
  TRY(index_, with_context(decode_snapshot_index(index, manifest_, header_.pages),
                           place(SnapshotPart::kIndex)));
  std::uint64_t offset = kSnapshotHeaderBytes;
  offsets_.reserve(index_.size());
  for (const auto& chunk : index_) {
    offsets_.push_back(offset);
    offset += static_cast<std::uint64_t>(std::popcount(chunk.pages)) * kPageSize;
  }
  return success();
}

std::string SnapshotReader::place(SnapshotPart part) const {
  return fmt::format("{} at offset {}", to_string(part), header_.offset_of(part));
}

Result<> SnapshotReader::read_at(std::uint64_t offset, std::span<std::byte> bytes) const {
  while (!bytes.empty()) {
    const ssize_t got = ::pread(fd_.get(), bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return fail_errno(ErrorKind::kFailed, "cannot read at offset {}", offset);
    if (got == 0) return fail(ErrorKind::kFailed, "it ends at offset {} while it is read", offset);
    bytes = bytes.subspan(static_cast<std::size_t>(got));
    offset += static_cast<std::uint64_t>(got);
  }
  return success();
}

Result<std::vector<std::byte>> SnapshotReader::read_part(SnapshotPart part) const {
  const auto& [size, checksum] = header_.parts[static_cast<std::size_t>(part)];
  std::vector<std::byte> bytes(size);
  TRY(read_at(header_.offset_of(part), bytes));
  if (snapshot_checksum(bytes) != checksum) {
    return fail(ErrorKind::kFailed, "{} is damaged", place(part));
  }
  return bytes;
}

Result<std::span<const std::byte>> SnapshotReader::read(std::size_t chunk,
                                                        std::span<std::byte> buffer) const {
  const auto& [pages, checksum] = index_[chunk];
  const auto bytes = buffer.first(static_cast<std::size_t>(std::popcount(pages)) * kPageSize);
  TRY(with_context(read_at(offsets_[chunk], bytes), name_));
  if (snapshot_checksum(bytes) != checksum) {
    return fail(ErrorKind::kFailed, "{}: guest memory at offset {} is damaged", name_,
                offsets_[chunk]);
  }
  return std::span<const std::byte>(bytes);
}

Result<> load_snapshot(const SnapshotReader& reader, GuestMemory& memory) {
  const auto ram = memory.regions()[0].bytes;
  if (ram.size() != reader.manifest().memory) {
    return fail(ErrorKind::kFailed, "a snapshot of {} bytes of memory, and the machine has {}",
                reader.manifest().memory, ram.size());
  }
  std::vector<std::byte> buffer(kSnapshotChunkBytes);
  for (std::size_t n = 0; n < reader.index().size(); ++n) {
    auto pages = reader.index()[n].pages;
    if (pages == 0) continue;
    TRY(auto bytes, reader.read(n, buffer));
    const auto chunk = ram.subspan(n * kSnapshotChunkBytes, kSnapshotChunkBytes);
    for (; pages != 0; pages &= pages - 1) {
      const auto page = static_cast<std::size_t>(std::countr_zero(pages));
      std::ranges::copy(bytes.first<kPageSize>(), chunk.subspan(page * kPageSize).begin());
      bytes = bytes.subspan(kPageSize);
    }
  }
  return success();
}

}  // namespace vmm::migration
