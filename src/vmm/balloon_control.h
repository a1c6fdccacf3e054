#pragma once

#include <cstdint>

#include "vmm/control_server.h"
#include "vmm/guest.h"

namespace vmm {

// Adds "balloon.set" and "balloon.get" (docs/control-protocol.md) for a guest with so many bytes of
// memory, which must outlive the server.
void add_balloon_methods(ControlServer& server, Guest& guest, std::uint64_t memory);

}  // namespace vmm
