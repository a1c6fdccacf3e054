#include "migration/snapshot_writer.h"

#include <algorithm>
#include <array>
#include <bit>

#include "migration/zero_page.h"

namespace vmm::migration {
namespace {

// Memory between two looks at the pagemap and at progress.stop.
constexpr std::size_t kStep = std::size_t{16} << 20;
static_assert(kStep % kSnapshotChunkBytes == 0);

// Pages of the file, one chunk after the other.
class PageWriter {
 public:
  PageWriter(SnapshotFile& file, std::vector<SnapshotChunk>& index)
      : file_(file), index_(index), buffer_(kSnapshotChunkBytes) {}

  // `backed`: the pages of the chunk that have memory behind them.
  [[nodiscard]] Result<> add(std::span<const std::byte> chunk, std::uint64_t backed) {
    SnapshotChunk entry;
    std::size_t size = 0;
    for (; backed != 0; backed &= backed - 1) {
      const auto page = static_cast<std::size_t>(std::countr_zero(backed));
      const auto bytes = chunk.subspan(page * kPageSize).first<kPageSize>();
      if (is_zero_page(bytes)) continue;
      entry.pages |= std::uint64_t{1} << page;
      std::ranges::copy(bytes, buffer_.begin() + static_cast<std::ptrdiff_t>(size));
      size += kPageSize;
    }
    const auto pages = std::span<const std::byte>(buffer_).first(size);
    entry.checksum = snapshot_checksum(pages);
    index_.push_back(entry);
    TRY(file_.write(kSnapshotHeaderBytes + pages_ * kPageSize, pages));
    pages_ += size / kPageSize;
    return success();
  }

  [[nodiscard]] std::uint64_t pages() const { return pages_; }

 private:
  SnapshotFile& file_;
  std::vector<SnapshotChunk>& index_;
  std::vector<std::byte> buffer_;
  std::uint64_t pages_ = 0;
};

Result<std::uint64_t> write_pages(SnapshotFile& file, std::span<const std::byte> ram,
                                  const Pagemap& pagemap, SnapshotProgress& progress,
                                  std::vector<SnapshotChunk>& index) {
  PageWriter writer(file, index);
  std::vector<std::uint64_t> backed;
  for (std::size_t at = 0; at < ram.size(); at += kStep) {
    if (progress.stop) return fail(ErrorKind::kInterrupted, "the snapshot was cancelled");
    const auto bytes = ram.subspan(at, std::min(kStep, ram.size() - at));
    backed.assign(dirty_words(bytes.size() / kPageSize), 0);
    TRY(pagemap.backed(bytes, backed));
    for (std::size_t n = 0; n < backed.size(); ++n) {
      TRY(writer.add(bytes.subspan(n * kSnapshotChunkBytes, kSnapshotChunkBytes), backed[n]));
    }
    progress.done_bytes += bytes.size();
  }
  return writer.pages();
}

}  // namespace

Result<std::uint64_t> write_snapshot(SnapshotFile& file, const SnapshotContents& contents,
                                     const GuestMemory& memory, const Pagemap& pagemap,
                                     SnapshotProgress& progress) {
  static_assert(kSnapshotChunkPages == kPagesPerWord);
  TRY(const auto manifest, encode(contents.manifest));
  if (contents.state.size() > kMaxMachineState) {
    return fail(ErrorKind::kFailed, "a machine state of {} bytes, at most {} are allowed",
                contents.state.size(), kMaxMachineState);
  }
  SnapshotHeader header;
  std::vector<SnapshotChunk> chunks;
  TRY(header.pages, write_pages(file, memory.regions()[0].bytes, pagemap, progress, chunks));
  const auto disks = encode(contents.disks);
  const auto index = encode(chunks);
  const std::array<std::span<const std::byte>, kSnapshotParts> parts{manifest, disks,
                                                                     contents.state, index};
  for (std::size_t n = 0; n < parts.size(); ++n) {
    header.parts[n] = {parts[n].size(), snapshot_checksum(parts[n])};
    TRY(file.write(header.offset_of(static_cast<SnapshotPart>(n)), parts[n]));
  }
  // Last, so that a file without an end has no beginning either.
  TRY(file.write(0, encode(header)));
  return header.file_bytes();
}

}  // namespace vmm::migration
