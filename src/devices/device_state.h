#pragma once

#include <concepts>
#include <cstdint>
#include <string_view>

#include "base/bytes.h"
#include "base/result.h"

namespace vmm {

// Reads the version (u32) that saved state starts with. Error unless it is `expected`.
[[nodiscard]] Result<> expect_state_version(ByteReader& reader, std::string_view device,
                                            std::uint32_t expected);

// The error of a saved field whose value no device can have.
[[nodiscard]] Error bad_state_field(std::string_view device, std::string_view field,
                                    std::uint64_t value);

// Reads a register; error where bits outside of `mask` are set.
template <std::unsigned_integral T>
[[nodiscard]] Result<T> get_register(ByteReader& reader, std::string_view device,
                                     std::string_view field, T mask) {
  TRY(auto value, reader.get<T>());
  if ((value & ~mask) != 0) return fail(bad_state_field(device, field, value));
  return value;
}

}  // namespace vmm
