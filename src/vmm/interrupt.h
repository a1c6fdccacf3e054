#pragma once

namespace vmm {

// For commands that follow something long: from catch_interrupts() on, SIGINT and SIGTERM do not
// end the process but are told by interrupted().
void catch_interrupts();
[[nodiscard]] bool interrupted();

}  // namespace vmm
