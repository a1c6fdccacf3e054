#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "base/result.h"

namespace vmm::load {

// Runs work(count / 10), unmeasured, then work(count) and prints
//
//   load: begin NAME
//   load: end NAME count=N us=N
//
// A pause on either side of the measured work leaves time to sample CPU times outside while nothing
// runs: after the first line, and before the first byte of the second.
[[nodiscard]] Result<> measured(const std::string& name, std::uint64_t count,
                                const std::function<Result<>(std::uint64_t)>& work);

}  // namespace vmm::load
