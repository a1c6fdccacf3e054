#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"

namespace vmm {

// What the guest's device tree says beyond the fixed layout (vmm/layout.h).
struct DeviceTreeConfig {
  std::uint64_t memory_size = 0;
  std::vector<std::uint64_t> cpu_affinities;  // MPIDR_EL1 affinity fields, one per vCPU
  bool pmu = false;
  unsigned virtio_slots = 0;  // slots in use, from 0 up
  std::string cmdline;
  struct Initrd {
    std::uint64_t start;  // guest-physical
    std::uint64_t end;    // first byte behind it
  };
  std::optional<Initrd> initrd;
  std::array<std::byte, 32> rng_seed{};  // feeds the guest's random number generator
  std::array<std::byte, 8> kaslr_seed{};
};

// The flattened device tree of the machine (Devicetree Specification 0.4).
[[nodiscard]] Result<std::vector<std::byte>> build_device_tree(const DeviceTreeConfig& config);

}  // namespace vmm
