#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>

#include "memory/dirty_bitmap.h"

// Numbers that both sides of the protocol agree on (docs/migration-protocol.md).
namespace vmm::migration {

inline constexpr std::uint32_t kProtocolVersion = 1;
inline constexpr unsigned kMaxDataChannels = 16;
// Pages of one CLEAR of the dirty log, of one unit of work of a data channel, and the most that one
// record may carry: 1 MiB.
inline constexpr std::uint64_t kChunkPages = 256;
inline constexpr std::size_t kMaxManifest = 1U << 20;
inline constexpr std::size_t kMaxMachineState = 16U << 20;
inline constexpr std::size_t kMaxText = 1024;
// How long a guest may stand still while it is handed over, digests included; no part of that takes
// longer.
inline constexpr std::chrono::hours kMaxSinceSave{24};
// What the destination's clock, which begins with the session, shows at most: a year.
inline constexpr std::chrono::hours kMaxSession{365 * 24};
inline constexpr std::chrono::milliseconds kDefaultPeerTimeout{10'000};
// A connection that does not say what it wants within this time is closed.
inline constexpr std::chrono::milliseconds kPreambleTimeout{5'000};

}  // namespace vmm::migration
