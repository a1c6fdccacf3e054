#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"
#include "kvm/capabilities.h"
#include "vmm/guest_config.h"

namespace vmm {

// Error (kHost) where the host cannot give a guest what its configuration asks for; host_memory is
// the host's RAM in bytes.
[[nodiscard]] Result<> check_host(const GuestConfig& config, const kvm::Capabilities& host,
                                  std::uint64_t host_memory);

// RAM of this host, in bytes.
[[nodiscard]] std::uint64_t host_memory();

// Guest-physical address bits for a guest with that much memory: the fewest that do, as they decide
// how many levels a stage-2 walk has, but at least 36.
[[nodiscard]] unsigned ipa_bits_for(std::uint64_t memory);

// A line of `vmm check`.
struct HostFeature {
  std::string name;
  bool available;
  bool required;  // no guest runs without it
  std::string detail;
};

// What this host can do, for people and programs.
[[nodiscard]] std::vector<HostFeature> host_features(const kvm::Capabilities& host,
                                                     std::uint64_t host_memory);

}  // namespace vmm
