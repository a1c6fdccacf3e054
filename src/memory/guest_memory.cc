#include "memory/guest_memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <utility>

namespace vmm {
namespace {

constexpr std::uint64_t kHugePageSize = std::uint64_t{2} << 20;
// No arm64 CPU has guest-physical addresses of more than 52 bits.
constexpr std::uint64_t kIpaEnd = std::uint64_t{1} << 52;

// Tells the kernel how the memory is used.
Result<> advise(const Mapping& mapping, Backing backing) {
  if (::madvise(mapping.data(), mapping.size(), MADV_DONTDUMP) != 0) {
    return fail_errno(ErrorKind::kHost, "cannot leave guest memory out of core dumps");
  }
  // EINVAL is a kernel built without transparent huge pages: the guest runs on small ones.
  if (backing == Backing::kAnonymous &&
      ::madvise(mapping.data(), mapping.size(), MADV_HUGEPAGE) != 0 && errno != EINVAL) {
    return fail_errno(ErrorKind::kHost, "cannot ask for huge pages for guest memory");
  }
  return success();
}

// Whether [ipa, ipa + size) is in the region; written so that nothing can overflow.
bool contains(const MemoryRegion& region, std::uint64_t ipa, std::uint64_t size) {
  if (ipa < region.ipa) return false;
  const std::uint64_t offset = ipa - region.ipa;
  return offset <= region.bytes.size() && size <= region.bytes.size() - offset;
}

}  // namespace

Result<GuestMemory> GuestMemory::create(std::uint64_t base_ipa, std::uint64_t size,
                                        Backing backing) {
  const auto host_page = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
  const std::uint64_t granule = backing == Backing::kHugetlb ? kHugePageSize : host_page;
  if (size == 0 || size % granule != 0) {
    return fail(ErrorKind::kUsage, "guest memory of {} bytes is not a multiple of {} bytes", size,
                granule);
  }
  if (base_ipa % host_page != 0 || base_ipa >= kIpaEnd || size > kIpaEnd - base_ipa) {
    return fail(ErrorKind::kUsage, "guest memory of {} bytes cannot be at {:#x}", size, base_ipa);
  }
  const bool huge_tlb = backing == Backing::kHugetlb;
  auto mapped = with_context(Mapping::anonymous(size, kHugePageSize, huge_tlb),
                             huge_tlb ? "guest memory from the huge page pool" : "guest memory");
  TRY(auto mapping, std::move(mapped));
  TRY(advise(mapping, backing));
  return GuestMemory(std::move(mapping), base_ipa, backing);
}

GuestMemory::GuestMemory(Mapping mapping, std::uint64_t base_ipa, Backing backing)
    : mapping_(std::move(mapping)),
      regions_{{{base_ipa, mapping_.bytes()}}},
      backing_(backing),
      device_dirty_(mapping_.size() / kPageSize) {}

Result<std::span<std::byte>> GuestMemory::slice(std::uint64_t ipa, std::uint64_t size) const {
  const auto& [base, bytes] = regions_[0];
  if (!contains(regions_[0], ipa, size)) {
    return fail(ErrorKind::kFailed,
                "{} bytes at guest address {:#x} are not within RAM ({} bytes at {:#x})", size, ipa,
                bytes.size(), base);
  }
  return bytes.subspan(ipa - base, size);
}

Result<> GuestMemory::read(std::uint64_t ipa, std::span<std::byte> out) const {
  TRY(auto source, slice(ipa, out.size()));
  if (!out.empty()) std::memcpy(out.data(), source.data(), out.size());
  return success();
}

Result<> GuestMemory::write(std::uint64_t ipa, std::span<const std::byte> in) {
  TRY(auto target, slice(ipa, in.size()));
  if (in.empty()) return success();
  std::memcpy(target.data(), in.data(), in.size());
  mark_dirty(ipa, in.size());
  return success();
}

void GuestMemory::mark_dirty(std::uint64_t ipa, std::uint64_t size) {
  if (!contains(regions_[0], ipa, size)) std::abort();
  if (size == 0) return;
  const std::uint64_t offset = ipa - base_ipa();
  const std::uint64_t first = offset / kPageSize;
  const std::uint64_t last = (offset + size - 1) / kPageSize;
  device_dirty_.set_range({first, last - first + 1});
}

void GuestMemory::mark_dirty(std::span<const std::byte> bytes) {
  // Out of RAM, the difference is out of range, too.
  const auto* start = regions_[0].bytes.data();
  mark_dirty(base_ipa() + static_cast<std::uint64_t>(bytes.data() - start), bytes.size());
}

Result<> GuestMemory::discard(std::uint64_t ipa, std::uint64_t size) {
  TRY(const auto bytes, slice(ipa, size));
  if (ipa % kPageSize != 0 || size % kPageSize != 0) {
    return fail(ErrorKind::kFailed, "{} bytes at {:#x} are not whole pages", size, ipa);
  }
  if (bytes.empty()) return success();
  // EINVAL is part of a huge page of hugetlbfs, which stays.
  if (::madvise(bytes.data(), bytes.size(), MADV_DONTNEED) != 0 && errno != EINVAL) {
    return fail_errno(ErrorKind::kHost, "cannot give {} bytes of guest memory back", size);
  }
  mark_dirty(ipa, size);
  return success();
}

}  // namespace vmm
