#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "base/result.h"

namespace vmm::load {

// Runs work(count / 10), unmeasured, then work(count) and prints
//
//   load: begin NAME
//
//   load: end NAME count=N us=N
//
// A pause after each line leaves time to sample CPU times outside while nothing runs; the empty
// line is there because printing costs time, too.
[[nodiscard]] Result<> measured(const std::string& name, std::uint64_t count,
                                const std::function<Result<>(std::uint64_t)>& work);

}  // namespace vmm::load
