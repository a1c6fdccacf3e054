#pragma once

#include <boost/json/object.hpp>

#include "vmm/console.h"
#include "vmm/guest.h"
#include "vmm/guest_config.h"

namespace vmm {

// Results of the control methods guest.info and guest.stats (docs/control-protocol.md).
[[nodiscard]] boost::json::object describe(const GuestConfig& config, const Guest& guest);
[[nodiscard]] boost::json::object statistics(const GuestConfig& config, const Guest& guest,
                                             const Console& serial, const Console& virtio);

}  // namespace vmm
