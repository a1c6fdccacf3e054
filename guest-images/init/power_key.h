#pragma once

#include <poll.h>

#include <vector>

#include "base/fd.h"

namespace vmm::guest {

// Watches the input devices for the power key, those that appear later included. Not thread-safe.
class PowerKey {
 public:
  // Opens what is in /dev/input now; failures are printed.
  PowerKey();

  // Adds what must be polled for input.
  void add_to(std::vector<pollfd>& polled) const;

  // Reads what there is, without waiting; whether the power key went down.
  [[nodiscard]] bool pressed();

 private:
  void open_device(const std::string& name);
  void take_new_devices();

  Fd watch_;  // inotify of the folder
  std::vector<Fd> devices_;
};

}  // namespace vmm::guest
