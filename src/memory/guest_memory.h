#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>

#include "base/mapping.h"
#include "base/result.h"
#include "memory/dirty_bitmap.h"

namespace vmm {

// Where a guest's RAM comes from.
enum class Backing {
  kAnonymous,  // private anonymous memory, 2 MiB-aligned, transparent huge pages asked for
  kHugetlb,    // the host's default hugetlbfs pool, reserved when the guest is made
};

// A piece of guest-physical address space backed by memory of this process: one KVM memslot.
struct MemoryRegion {
  std::uint64_t ipa;
  std::span<std::byte> bytes;
};

// What fills a guest's RAM while the guest runs already.
class MemoryFiller {
 public:
  MemoryFiller() = default;
  MemoryFiller(const MemoryFiller&) = delete;
  MemoryFiller& operator=(const MemoryFiller&) = delete;
  virtual ~MemoryFiller() = default;
};

// Owner of a guest's RAM. Guest-physical addresses (IPA) come from the guest, so every access is
// checked here and gives an error when it leaves RAM. All functions may be called from any thread;
// the contents may change under the reader at any time, since vCPUs run: copy once, then check.
class GuestMemory {
 public:
  // Maps `size` bytes of RAM, zeroed, at guest-physical address `base_ipa`; both are multiples of
  // the host's page size, and size of 2 MiB for hugetlb, and RAM ends within 52 bits. Left out of
  // core dumps. Errors are of kind kHost (no memory, pool too small) or kUsage (size or address
  // unfit).
  [[nodiscard]] static Result<GuestMemory> create(std::uint64_t base_ipa, std::uint64_t size,
                                                  Backing backing);

  // The RAM of the guest in ascending order, for memslots.
  [[nodiscard]] std::span<const MemoryRegion> regions() const { return regions_; }
  [[nodiscard]] std::uint64_t base_ipa() const { return regions_[0].ipa; }
  [[nodiscard]] std::uint64_t size() const { return regions_[0].bytes.size(); }
  [[nodiscard]] Backing backing() const { return backing_; }

  // The memory behind [ipa, ipa + size). Error unless all of it is RAM; size 0 is fine inside RAM
  // and at its end. Who writes through the span calls mark_dirty() afterwards.
  [[nodiscard]] Result<std::span<std::byte>> slice(std::uint64_t ipa, std::uint64_t size) const;

  // Copies out.size() bytes of guest memory at ipa.
  [[nodiscard]] Result<> read(std::uint64_t ipa, std::span<std::byte> out) const;
  // Copies `in` to guest memory at ipa and marks the pages dirty. Nothing is written on error.
  [[nodiscard]] Result<> write(std::uint64_t ipa, std::span<const std::byte> in);

  // Marks the pages of a range that slice() has accepted as written by the VMM. Call it after the
  // write. KVM's log does not see these writes; migration ORs both. A range that is not RAM is a
  // bug of the caller and aborts.
  void mark_dirty(std::uint64_t ipa, std::uint64_t size);
  // The same for bytes of a span that slice() has returned.
  void mark_dirty(std::span<const std::byte> bytes);

  // Gives the whole pages of a range back to the host: they read as zero from now on. They count as
  // written by the VMM, so that migration carries them over as holes. Error where the range is not
  // within RAM or not whole pages; memory that the host cannot take back (hugetlb) stays as it is.
  [[nodiscard]] Result<> discard(std::uint64_t ipa, std::uint64_t size);
  // Keeps what fills this memory until right before the memory goes, when nobody uses it any more.
  void keep(std::unique_ptr<MemoryFiller> filler) { filler_ = std::move(filler); }
  // Pages written by the VMM itself; page 0 is at base_ipa().
  [[nodiscard]] DirtyBitmap& device_dirty() { return device_dirty_; }

 private:
  GuestMemory(Mapping mapping, std::uint64_t base_ipa, Backing backing);

  Mapping mapping_;
  std::array<MemoryRegion, 1> regions_;
  Backing backing_;
  DirtyBitmap device_dirty_;
  std::unique_ptr<MemoryFiller> filler_;  // goes before the mapping
};

}  // namespace vmm
