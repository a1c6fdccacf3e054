#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace vmm {

static_assert(std::endian::native == std::endian::little, "the formats here are little-endian");

template <typename T>
concept WireInteger = std::integral<T> && !std::same_as<T, bool>;

// Appends little-endian values to a byte vector.
class ByteWriter {
 public:
  template <WireInteger T>
  void put(T value) {
    const auto at = bytes_.size();
    bytes_.resize(at + sizeof value);
    std::memcpy(bytes_.data() + at, &value, sizeof value);
  }
  void put_bool(bool value) { put<std::uint8_t>(value ? 1 : 0); }
  void put_bytes(std::span<const std::byte> data) {
    bytes_.insert(bytes_.end(), data.begin(), data.end());
  }
  // Length (u32), then the bytes.
  void put_blob(std::span<const std::byte> data) {
    put(static_cast<std::uint32_t>(data.size()));
    put_bytes(data);
  }
  void put_string(std::string_view text) { put_blob(std::as_bytes(std::span(text))); }

  [[nodiscard]] std::span<const std::byte> bytes() const { return bytes_; }
  [[nodiscard]] std::vector<std::byte> take() { return std::move(bytes_); }
  // The same where N bytes were written.
  template <std::size_t N>
  [[nodiscard]] std::array<std::byte, N> to_array() const {
    std::array<std::byte, N> array{};
    std::ranges::copy(std::span(bytes_).template first<N>(), array.begin());
    return array;
  }

 private:
  std::vector<std::byte> bytes_;
};

// Reads little-endian values from bytes that nobody vouches for: every read is bounds-checked and
// every length is capped before anything is allocated.
class ByteReader {
 public:
  explicit ByteReader(std::span<const std::byte> bytes) : rest_(bytes), size_(bytes.size()) {}

  template <WireInteger T>
  [[nodiscard]] Result<T> get() {
    TRY(auto raw, get_bytes(sizeof(T)));
    T value{};
    std::memcpy(&value, raw.data(), sizeof value);
    return value;
  }
  // A byte that must be 0 or 1.
  [[nodiscard]] Result<bool> get_bool();
  // The next count bytes, as a view into the input.
  [[nodiscard]] Result<std::span<const std::byte>> get_bytes(std::size_t count);
  // The next N bytes.
  template <std::size_t N>
  [[nodiscard]] Result<std::array<std::byte, N>> get_array() {
    TRY(const auto raw, get_bytes(N));
    std::array<std::byte, N> array{};
    std::ranges::copy(raw, array.begin());
    return array;
  }
  // Length (u32) of at most max, then that many bytes, as a view into the input.
  [[nodiscard]] Result<std::span<const std::byte>> get_blob(std::size_t max);
  [[nodiscard]] Result<std::string> get_string(std::size_t max);

  [[nodiscard]] std::size_t remaining() const { return rest_.size(); }
  // Error unless all input was read.
  [[nodiscard]] Result<> expect_end() const;

 private:
  [[nodiscard]] std::size_t offset() const { return size_ - rest_.size(); }

  std::span<const std::byte> rest_;
  std::size_t size_;
};

}  // namespace vmm
