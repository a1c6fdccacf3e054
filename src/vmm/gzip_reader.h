#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "base/fd.h"
#include "base/result.h"

namespace vmm {

// Decompresses a gzip file piece by piece.
class GzipReader {
 public:
  // fd must stay open while the reader lives; name is what errors call the file.
  [[nodiscard]] static Result<GzipReader> open(const Fd& fd, std::string name);
  GzipReader(GzipReader&&) noexcept;
  GzipReader& operator=(GzipReader&&) noexcept;
  ~GzipReader();

  // Fills out, and returns how many bytes it got: fewer than out.size() at the end of the data
  // only. Errors where the data is damaged or truncated.
  [[nodiscard]] Result<std::size_t> read(std::span<std::byte> out);

 private:
  struct Stream;
  explicit GzipReader(std::unique_ptr<Stream> stream);

  std::unique_ptr<Stream> stream_;
};

}  // namespace vmm
