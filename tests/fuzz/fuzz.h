#pragma once

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <vector>

// What all fuzz targets share.
namespace vmm::fuzz {

// The bytes of one run. A target decodes them to what a guest or a peer does; where they are used
// up, everything reads as zero.
class Input {
 public:
  explicit Input(std::span<const std::byte> bytes) : rest_(bytes) {}

  [[nodiscard]] bool empty() const { return rest_.empty(); }
  // A little-endian value.
  template <std::unsigned_integral T>
  T get() {
    T value{};
    const auto raw = bytes(sizeof value);
    std::memcpy(&value, raw.data(), raw.size());
    return value;
  }
  // A byte modulo `bound`, which is not 0.
  std::uint8_t below(std::uint8_t bound) {
    return static_cast<std::uint8_t>(get<std::uint8_t>() % bound);
  }
  // The next bytes, `count` at most.
  std::span<const std::byte> bytes(std::size_t count) {
    const auto taken = rest_.first(std::min(count, rest_.size()));
    rest_ = rest_.subspan(taken.size());
    return taken;
  }
  std::span<const std::byte> rest() { return bytes(rest_.size()); }

 private:
  std::span<const std::byte> rest_;
};

// Ends the process where `holds` is false, with a line that says what was expected.
void check(bool holds, std::string_view what);

// A target by name. There is one in each program that fuzzes, and all are in the one that replays
// the corpus.
struct Target {
  Target(std::string_view target_name, void (*target_run)(Input&));

  std::string_view name;
  void (*run)(Input&);
};
[[nodiscard]] std::vector<Target>& targets();

// Called once: what the code under test logs goes nowhere.
void prepare();

}  // namespace vmm::fuzz
