#include "base/bytes.h"

namespace vmm {

Result<bool> ByteReader::get_bool() {
  TRY(auto value, get<std::uint8_t>());
  if (value > 1) {
    return fail(ErrorKind::kFailed, "byte {} is {} where 0 or 1 is expected", offset() - 1, value);
  }
  return value == 1;
}

Result<std::span<const std::byte>> ByteReader::get_bytes(std::size_t count) {
  if (count > rest_.size()) {
    return fail(ErrorKind::kFailed, "data ends at byte {}, {} more are expected", size_,
                count - rest_.size());
  }
  const auto taken = rest_.first(count);
  rest_ = rest_.subspan(count);
  return taken;
}

Result<std::span<const std::byte>> ByteReader::get_blob(std::size_t max) {
  TRY(auto length, get<std::uint32_t>());
  if (length > max) {
    return fail(ErrorKind::kFailed, "length {} at byte {} is beyond the {} allowed", length,
                offset() - sizeof length, max);
  }
  return get_bytes(length);
}

Result<std::string> ByteReader::get_string(std::size_t max) {
  TRY(auto blob, get_blob(max));
  return std::string(reinterpret_cast<const char*>(blob.data()), blob.size());
}

Result<> ByteReader::expect_end() const {
  if (!rest_.empty()) {
    return fail(ErrorKind::kFailed, "{} bytes too many behind byte {}", rest_.size(), offset());
  }
  return success();
}

}  // namespace vmm
