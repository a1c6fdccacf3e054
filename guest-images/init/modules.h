#pragma once

#include <string>

namespace vmm::guest {

// Loads the kernel modules that the file `list` names, one path a line in dependency order (made
// when the image was built). A module that does not load is printed and the rest goes on; no list
// means no modules.
void load_modules(const std::string& list);

}  // namespace vmm::guest
