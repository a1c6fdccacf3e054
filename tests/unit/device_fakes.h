#pragma once

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "devices/clock.h"
#include "devices/device.h"
#include "devices/interrupt_line.h"
#include "devices/mmio.h"
#include "devices/pl011.h"
#include "devices/pl031.h"

// Fakes of what surrounds a device, and shorthand for tests of registers and of saved state.
namespace vmm {

// Remembers the level and counts the calls.
class FakeLine final : public InterruptLine {
 public:
  void set_level(bool level) override {
    high = level;
    ++calls;
  }
  bool high = false;
  int calls = 0;
};

// Keeps what a guest has sent.
class FakeSink final : public SerialSink {
 public:
  void write(std::span<const std::byte> bytes) override {
    for (const std::byte byte : bytes) text += static_cast<char>(byte);
  }
  std::string text;
};

class FakeClock final : public Clock {
 public:
  [[nodiscard]] std::int64_t wall_seconds() const override { return now; }
  std::int64_t now = 1'700'000'000;
};

class FakeTimer final : public AlarmTimer {
 public:
  void arm_at(std::optional<std::int64_t> wall_seconds) override {
    deadline = wall_seconds;
    ++calls;
  }
  std::optional<std::int64_t> deadline;
  int calls = 0;
};

inline std::span<const std::byte> as_input(std::string_view text) {
  return std::as_bytes(std::span(text));
}

// A read or write of `size` bytes as a guest would make it; reads start from bytes that are all
// set, so that one that does not fill its buffer shows.
inline std::uint64_t mmio_read(MmioDevice& device, std::uint64_t offset, std::size_t size = 4) {
  std::byte data[8];
  for (std::byte& byte : data) byte = std::byte{0xff};
  device.mmio_read(offset, std::span(data).first(size));
  std::uint64_t value = 0;
  for (std::size_t i = size; i-- > 0;) value = value << 8 | std::to_integer<std::uint64_t>(data[i]);
  return value;
}

inline void mmio_write(MmioDevice& device, std::uint64_t offset, std::uint64_t value,
                       std::size_t size = 4) {
  std::byte data[8];
  for (std::size_t i = 0; i < size; ++i) data[i] = static_cast<std::byte>(value >> (8 * i) & 0xff);
  device.mmio_write(offset, std::span(data).first(size));
}

inline std::vector<std::byte> saved(const Device& device) {
  ByteWriter writer;
  device.save(writer);
  return writer.take();
}

// Restores from all of `state`; false where the device refuses it or leaves bytes unread.
inline bool restored(Device& device, std::span<const std::byte> state) {
  ByteReader reader(state);
  return device.restore(reader).has_value() && reader.expect_end().has_value();
}

// Every proper prefix of a saved state is refused, and so is every version but the one saved; the
// device keeps its state.
inline void expect_hostile_bytes_refused(Device& device, std::span<const std::byte> good) {
  const auto before = saved(device);
  for (std::size_t length = 0; length < good.size(); ++length) {
    ByteReader reader(good.first(length));
    EXPECT_FALSE(device.restore(reader)) << "cut to " << length << " bytes";
    EXPECT_EQ(saved(device), before) << "cut to " << length << " bytes";
  }
  for (const std::uint32_t version : {0u, 2u, 3u, 0x100u, 0x7fffffffu, 0x80000000u, 0xffffffffu}) {
    std::vector<std::byte> bytes(good.begin(), good.end());
    std::memcpy(bytes.data(), &version, sizeof version);
    EXPECT_FALSE(restored(device, bytes)) << "version " << version;
    EXPECT_EQ(saved(device), before) << "version " << version;
  }
}

// A good state with `value` put at a byte offset is refused, and the device keeps its state.
template <typename T>
void expect_field_refused(Device& device, std::vector<std::byte> state, std::size_t at, T value) {
  const auto before = saved(device);
  ASSERT_LE(at + sizeof value, state.size());
  std::memcpy(state.data() + at, &value, sizeof value);
  EXPECT_FALSE(restored(device, state)) << "field at " << at << " = " << +value;
  EXPECT_EQ(saved(device), before);
}

}  // namespace vmm
