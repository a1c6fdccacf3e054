#pragma once

#include <boost/asio/io_context.hpp>

#include <cstddef>
#include <functional>
#include <memory>
#include <vector>

#include "base/result.h"
#include "vmm/console.h"
#include "vmm/guest_config.h"
#include "vmm/guest_resources.h"
#include "vmm/machine.h"

namespace vmm {

// What a machine is made of, and what it is connected to. All of it outlives the machine.
struct MachineParts {
  const GuestConfig& config;
  const GuestResources& resources;
  Console& console;
  Console& virtio_console;
  boost::asio::io_context& loop;
  // Of a guest from another host, whose memory and state will follow: MovableMachine::identity()
  // there. The machine looks like that one, or cannot be made: the error names the field and both
  // values. Null where the machine boots here.
  const std::vector<std::byte>* identity;
};
using MachineMaker =
    std::function<Result<std::unique_ptr<Machine>>(const MachineParts&, Machine::EventHandler)>;

}  // namespace vmm
