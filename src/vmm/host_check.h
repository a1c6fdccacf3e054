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

// Error (kHost) where the host has less memory available, now, than a guest that brings its memory
// along may fill; available is in bytes.
[[nodiscard]] Result<> check_available(const GuestConfig& config, std::uint64_t available);

// What of this host's memory, swap included, can be had without taking it from others, in bytes;
// for hugetlb the free pages of the default pool. Error (kHost) where the host does not say.
[[nodiscard]] Result<std::uint64_t> available_memory(bool hugetlb);

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
