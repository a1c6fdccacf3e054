#include "vmm/gzip_reader.h"

#include <unistd.h>
#include <zlib.h>

#include <algorithm>
#include <array>
#include <limits>

namespace vmm {

struct GzipReader::Stream {
  Stream(const Fd& file, std::string file_name) : fd(file), name(std::move(file_name)) {}
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  ~Stream() { inflateEnd(&zlib); }

  // Refills the input where it is used up; leaves it empty at the end of the file.
  [[nodiscard]] Result<> refill() {
    if (zlib.avail_in != 0) return success();
    ssize_t n = 0;
    do {
      n = ::pread(fd.get(), input.data(), input.size(), static_cast<off_t>(offset));
    } while (n < 0 && errno == EINTR);
    if (n < 0) return fail_errno(ErrorKind::kFailed, "cannot read {}", name);
    offset += static_cast<std::uint64_t>(n);
    zlib.next_in = input.data();
    zlib.avail_in = static_cast<uInt>(n);
    return success();
  }

  const Fd& fd;
  std::uint64_t offset = 0;
  std::string name;
  z_stream zlib{};
  bool ended = false;
  std::array<Bytef, 64 * 1024> input{};
};

GzipReader::GzipReader(std::unique_ptr<Stream> stream) : stream_(std::move(stream)) {}
GzipReader::GzipReader(GzipReader&&) noexcept = default;
GzipReader& GzipReader::operator=(GzipReader&&) noexcept = default;
GzipReader::~GzipReader() = default;

Result<GzipReader> GzipReader::open(const Fd& fd, std::string name) {
  auto stream = std::make_unique<Stream>(fd, std::move(name));
  constexpr int kGzipOnly = MAX_WBITS + 16;
  if (inflateInit2(&stream->zlib, kGzipOnly) != Z_OK) {
    return fail(ErrorKind::kHost, "cannot start decompressing {}: out of memory", stream->name);
  }
  return GzipReader(std::move(stream));
}

Result<std::size_t> GzipReader::read(std::span<std::byte> out) {
  Stream& stream = *stream_;
  std::size_t done = 0;
  while (done < out.size() && !stream.ended) {
    TRY(stream.refill());
    const std::size_t want =
        std::min<std::size_t>(out.size() - done, std::numeric_limits<uInt>::max());
    stream.zlib.next_out = reinterpret_cast<Bytef*>(out.data() + done);
    stream.zlib.avail_out = static_cast<uInt>(want);
    const int status = inflate(&stream.zlib, Z_NO_FLUSH);
    done += want - stream.zlib.avail_out;
    if (status == Z_STREAM_END) {
      stream.ended = true;
    } else if (status == Z_BUF_ERROR) {
      return fail(ErrorKind::kUsage, "{} is truncated: its compressed data ends early",
                  stream.name);
    } else if (status != Z_OK) {
      return fail(ErrorKind::kUsage, "{} is damaged: {}", stream.name,
                  stream.zlib.msg == nullptr ? "bad compressed data" : stream.zlib.msg);
    }
  }
  return done;
}

}  // namespace vmm
