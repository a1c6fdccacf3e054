#include "base/mapping.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>

#include "base/checked.h"

namespace vmm {

Mapping::~Mapping() {
  if (!bytes_.empty()) static_cast<void>(::munmap(bytes_.data(), bytes_.size()));
}

Result<Mapping> Mapping::map(std::size_t size, int protection, int flags, int fd,
                             std::size_t offset) {
  void* address = ::mmap(nullptr, size, protection, flags, fd, static_cast<off_t>(offset));
  if (address == MAP_FAILED) {
    return fail_errno(ErrorKind::kHost, "cannot map {} bytes of memory", size);
  }
  return Mapping({static_cast<std::byte*>(address), size});
}

Result<Mapping> Mapping::anonymous(std::size_t size, std::size_t alignment, bool huge_tlb) {
  const int protection = PROT_READ | PROT_WRITE;
  const int flags = MAP_PRIVATE | MAP_ANONYMOUS;
  // The kernel aligns hugetlb mappings to their page size by itself, and reserves the pages now, so
  // that a pool too small is an error here and not a SIGBUS later.
  if (huge_tlb) return map(size, protection, flags | MAP_HUGETLB, -1, 0);

  // Map more than asked for, then give back what lies before and behind the aligned part.
  const auto padded = checked_add(size, alignment);
  if (!padded) return fail(ErrorKind::kUsage, "{} bytes are more than there are addresses", size);
  TRY(auto raw, map(*padded, protection, flags | MAP_NORESERVE, -1, 0));
  const auto start = reinterpret_cast<std::uintptr_t>(raw.data());
  const std::size_t before = (alignment - start % alignment) % alignment;
  const std::size_t behind = alignment - before;
  const auto aligned = std::exchange(raw.bytes_, {}).subspan(before, size);
  if (before != 0) static_cast<void>(::munmap(aligned.data() - before, before));
  if (behind != 0) static_cast<void>(::munmap(aligned.data() + size, behind));
  return Mapping(aligned);
}

Result<Mapping> Mapping::shared(const Fd& fd, std::size_t size, std::size_t offset) {
  return map(size, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), offset);
}

Result<Mapping> Mapping::read_only(const Fd& fd, std::size_t size) {
  return map(size, PROT_READ, MAP_PRIVATE, fd.get(), 0);
}

}  // namespace vmm
