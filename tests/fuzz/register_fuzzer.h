#pragma once

#include <array>
#include <concepts>
#include <cstddef>
#include <memory>

#include "base/bytes.h"
#include "devices/device.h"
#include "devices/pl031.h"
#include "fuzz.h"

// Devices that are registers and nothing else.
namespace vmm::fuzz {

[[nodiscard]] inline std::vector<std::byte> saved(const Device& device) {
  ByteWriter writer;
  device.save(writer);
  return writer.take();
}

// Has a new device, from make(), take the place of this one with a state from a peer.
template <typename T, typename Make>
void take_over(std::unique_ptr<T>& device, std::span<const std::byte> state, Make make) {
  auto other = make();
  const auto before = saved(*other);
  ByteReader reader(state);
  if (!other->restore(reader)) {
    check(saved(*other) == before, "a device that refuses a state keeps its own");
    return;
  }
  const auto read = state.first(state.size() - reader.remaining());
  // A clock may notice on the way that time has passed.
  if constexpr (!std::same_as<T, Pl031>) {
    check(std::ranges::equal(saved(*other), read), "a device saves what it was restored from");
  }
  device = std::move(other);
}

// Drives a device from make() with accesses of all widths, resets, moves to another device, with a
// state that a peer may have changed, and event(device, input) for what its surroundings may do.
template <typename Make, typename Event>
void fuzz_registers(Input& input, Make make, Event event) {
  auto device = make();
  using T = typename decltype(device)::element_type;
  while (!input.empty()) {
    switch (input.below(6)) {
      case 0:
      case 1:
      case 2: {
        std::array<std::byte, 8> bytes{};
        const unsigned shape = input.get<std::uint8_t>();
        const std::size_t size = std::size_t{1} << (shape & 3);
        // Mostly registers that there are: those at the start, and those that identify the device.
        std::uint64_t offset = input.get<std::uint8_t>() * 4ULL;
        if ((shape & 4) != 0) offset = input.get<std::uint16_t>();
        offset %= T::kWindow - size + 1;
        const auto data = std::span(bytes).first(size);
        std::ranges::copy(input.bytes((shape & 8) != 0 ? size : 0), data.begin());
        if ((shape & 8) != 0) {
          device->mmio_write(offset, data);
        } else {
          device->mmio_read(offset, data);
        }
        break;
      }
      case 3:
        event(*device, input);
        break;
      case 4: {
        auto state = saved(*device);
        for (unsigned changes = input.below(3); changes != 0; --changes) {
          const std::size_t at = input.get<std::uint8_t>() % state.size();
          state[at] = std::byte{input.get<std::uint8_t>()};
        }
        take_over(device, state, make);
        break;
      }
      default:
        if (input.below(8) == 0) {
          device->reset();
        } else {
          take_over(device, input.bytes(input.get<std::uint8_t>()), make);
        }
        break;
    }
  }
  const auto state = saved(*device);
  auto other = make();
  ByteReader reader(state);
  const auto accepted = other->restore(reader);
  if (!accepted)
    check(false, "a device takes over what it has saved: " + accepted.error().message());
  check(reader.remaining() == 0, "a device reads all that it has saved");
  if constexpr (!std::same_as<T, Pl031>) {
    check(saved(*other) == state, "a device saves what it was restored from");
  }
}

}  // namespace vmm::fuzz
