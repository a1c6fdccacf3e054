#include "memory/pagemap.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>

#include "memory/dirty_bitmap.h"

namespace vmm {
namespace {

// Documentation/admin-guide/mm/pagemap.rst: one word per page; bit 63 present, bit 62 swapped.
constexpr std::uint64_t kBacked = std::uint64_t{3} << 62;
// 16 MiB of memory in one read of 32 KiB.
constexpr std::size_t kBatch = 4096;
static_assert(kBatch % kPagesPerWord == 0);

// The bits of up to 64 entries.
std::uint64_t to_word(std::span<const std::uint64_t> entries) {
  std::uint64_t word = 0;
  for (std::size_t i = 0; i < entries.size(); ++i) {
    word |= static_cast<std::uint64_t>((entries[i] & kBacked) != 0) << i;
  }
  return word;
}

Result<> read_entries(const Fd& fd, std::uint64_t page, std::span<std::uint64_t> entries) {
  auto out = std::as_writable_bytes(entries);
  auto offset = static_cast<off_t>(page * sizeof(std::uint64_t));
  while (!out.empty()) {
    const ssize_t got = ::pread(fd.get(), out.data(), out.size(), offset);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return fail_errno(ErrorKind::kHost, "cannot read /proc/self/pagemap");
    if (got == 0) return fail(ErrorKind::kHost, "/proc/self/pagemap ends before guest memory");
    out = out.subspan(static_cast<std::size_t>(got));
    offset += got;
  }
  return success();
}

}  // namespace

Result<Pagemap> Pagemap::open() {
  const long host_page = ::sysconf(_SC_PAGESIZE);
  if (host_page != static_cast<long>(kPageSize)) {
    return fail(ErrorKind::kHost, "the host's pages are of {} bytes, not {}", host_page, kPageSize);
  }
  TRY(auto fd, open_file("/proc/self/pagemap", O_RDONLY, 0, ErrorKind::kHost));
  return Pagemap(std::move(fd));
}

Result<> Pagemap::backed(std::span<const std::byte> memory, std::span<std::uint64_t> bits) const {
  const auto address = reinterpret_cast<std::uintptr_t>(memory.data());
  const std::uint64_t pages = memory.size() / kPageSize;
  if (address % kPageSize != 0 || memory.size() % kPageSize != 0 ||
      bits.size() != dirty_words(pages)) {
    std::abort();
  }
  std::array<std::uint64_t, kBatch> buffer;
  for (std::uint64_t done = 0; done < pages; done += kBatch) {
    std::span entries(buffer.data(), std::min<std::uint64_t>(kBatch, pages - done));
    TRY(read_entries(fd_, address / kPageSize + done, entries));
    for (std::size_t at = 0; at < entries.size(); at += kPagesPerWord) {
      const auto count = std::min<std::size_t>(kPagesPerWord, entries.size() - at);
      bits[(done + at) / kPagesPerWord] = to_word(entries.subspan(at, count));
    }
  }
  return success();
}

}  // namespace vmm
