#pragma once

#include <cstddef>
#include <span>
#include <utility>

#include "base/fd.h"
#include "base/result.h"

namespace vmm {

// Owner of a memory mapping; unmaps it when it goes.
class Mapping {
 public:
  Mapping() = default;
  Mapping(Mapping&& other) noexcept : bytes_(std::exchange(other.bytes_, {})) {}
  Mapping& operator=(Mapping&& other) noexcept {
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  ~Mapping();

  // Private anonymous memory, readable and writable, not reserved up front, whose start is aligned
  // to `alignment` bytes (a power of two, at least the page size). size is a multiple of the page
  // size. With huge_tlb the pages come from the default hugetlbfs pool.
  [[nodiscard]] static Result<Mapping> anonymous(std::size_t size, std::size_t alignment,
                                                 bool huge_tlb = false);
  // Shared mapping of size bytes of fd at offset, readable and writable.
  [[nodiscard]] static Result<Mapping> shared(const Fd& fd, std::size_t size,
                                              std::size_t offset = 0);
  // Private, read-only mapping of the first size bytes of fd.
  [[nodiscard]] static Result<Mapping> read_only(const Fd& fd, std::size_t size);

  [[nodiscard]] std::span<std::byte> bytes() const { return bytes_; }
  [[nodiscard]] std::byte* data() const { return bytes_.data(); }
  [[nodiscard]] std::size_t size() const { return bytes_.size(); }

 private:
  explicit Mapping(std::span<std::byte> bytes) : bytes_(bytes) {}
  [[nodiscard]] static Result<Mapping> map(std::size_t size, int protection, int flags, int fd,
                                           std::size_t offset);

  std::span<std::byte> bytes_;
};

}  // namespace vmm
