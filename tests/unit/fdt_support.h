#pragma once

extern "C" {
#include <libfdt.h>
}

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace vmm {

// Reads a device tree back with libfdt's own functions; what is missing fails the test.
class FdtReader {
 public:
  explicit FdtReader(std::span<const std::byte> blob) : blob_(blob.begin(), blob.end()) {
    EXPECT_EQ(fdt_check_full(blob_.data(), blob_.size()), 0);
  }

  [[nodiscard]] bool has_node(const std::string& path) const {
    return fdt_path_offset(blob_.data(), path.c_str()) >= 0;
  }
  [[nodiscard]] bool has(const std::string& path, const char* name) const {
    return fdt_getprop(blob_.data(), node(path), name, nullptr) != nullptr;
  }
  // The value as bytes, zeros included.
  [[nodiscard]] std::string raw(const std::string& path, const char* name) const {
    int length = 0;
    const auto* value = fdt_getprop(blob_.data(), node(path), name, &length);
    if (value == nullptr) {
      ADD_FAILURE() << path << " has no " << name;
      return {};
    }
    return {static_cast<const char*>(value), static_cast<std::size_t>(length)};
  }
  [[nodiscard]] std::string text(const std::string& path, const char* name) const {
    const auto value = raw(path, name);
    EXPECT_TRUE(!value.empty() && value.back() == '\0') << path << ": " << name;
    return value.substr(0, value.size() - (value.empty() ? 0 : 1));
  }
  [[nodiscard]] std::vector<std::uint32_t> cells(const std::string& path, const char* name) const {
    const auto value = raw(path, name);
    EXPECT_EQ(value.size() % 4, 0U) << path << ": " << name;
    std::vector<std::uint32_t> cells;
    for (std::size_t i = 0; i + 4 <= value.size(); i += 4) {
      cells.push_back(
          fdt32_ld(reinterpret_cast<const fdt32_t*>(reinterpret_cast<const char*>(&value[i]))));
    }
    return cells;
  }
  // Pairs of cells as 64-bit numbers.
  [[nodiscard]] std::vector<std::uint64_t> u64s(const std::string& path, const char* name) const {
    const auto halves = cells(path, name);
    EXPECT_EQ(halves.size() % 2, 0U) << path << ": " << name;
    std::vector<std::uint64_t> numbers;
    for (std::size_t i = 0; i + 2 <= halves.size(); i += 2) {
      numbers.push_back(std::uint64_t{halves[i]} << 32 | halves[i + 1]);
    }
    return numbers;
  }
  // Path of the node that has a phandle.
  [[nodiscard]] std::string by_phandle(std::uint32_t phandle) const {
    const int offset = fdt_node_offset_by_phandle(blob_.data(), phandle);
    char path[128] = "(none)";
    if (offset >= 0) fdt_get_path(blob_.data(), offset, path, sizeof path);
    return path;
  }
  // Paths of all nodes.
  [[nodiscard]] std::vector<std::string> nodes() const {
    std::vector<std::string> paths;
    for (int at = 0, depth = 0; at >= 0 && depth >= 0;
         at = fdt_next_node(blob_.data(), at, &depth)) {
      char path[128];
      fdt_get_path(blob_.data(), at, path, sizeof path);
      paths.emplace_back(path);
    }
    return paths;
  }

 private:
  [[nodiscard]] int node(const std::string& path) const {
    const int offset = fdt_path_offset(blob_.data(), path.c_str());
    EXPECT_GE(offset, 0) << "no node " << path;
    return offset;
  }

  std::vector<std::byte> blob_;
};

}  // namespace vmm
