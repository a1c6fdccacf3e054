#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace vmm {

// Writes a flattened device tree in one pass, over libfdt's sequential-write functions. The first
// error sticks and comes out of finish().
class FdtWriter {
 public:
  FdtWriter();

  void begin_node(const std::string& name);
  void end_node();

  void property(const char* name);  // without a value
  void property(const char* name, std::string_view text);
  void property(const char* name, std::span<const std::byte> value);
  void property_strings(const char* name, std::initializer_list<std::string_view> texts);
  void property_cells(const char* name, std::initializer_list<std::uint32_t> cells);
  void property_cells(const char* name, std::span<const std::uint32_t> cells);
  // Values of two cells each, as addresses and sizes are here.
  void property_u64s(const char* name, std::initializer_list<std::uint64_t> values);

  // The finished blob. Error where it outgrew the writer (64 KiB) or nodes do not
  // match.
  [[nodiscard]] Result<std::vector<std::byte>> finish();

 private:
  void note(int status);

  std::vector<std::byte> blob_;
  int error_ = 0;
  int depth_ = 0;  // nodes begun and not ended
};

}  // namespace vmm
