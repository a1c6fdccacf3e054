#pragma once

#include <boost/asio/io_context.hpp>

#include <memory>

#include "base/result.h"
#include "kvm/system.h"
#include "vmm/console.h"
#include "vmm/guest_config.h"
#include "vmm/guest_resources.h"
#include "vmm/machine.h"

namespace vmm {

// Builds the machine of a configuration on KVM and loads what it boots. resources are those of the
// configuration; they, the consoles and loop must outlive the machine.
[[nodiscard]] Result<std::unique_ptr<Machine>> make_kvm_machine(
    const kvm::System& system, const GuestConfig& config, const GuestResources& resources,
    Console& console, Console& virtio_console, boost::asio::io_context& loop,
    Machine::EventHandler on_event);

}  // namespace vmm
