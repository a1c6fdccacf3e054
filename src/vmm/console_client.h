#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "base/fd.h"
#include "base/result.h"
#include "vmm/console.h"

namespace vmm {

// Connects the terminal to the guest's console until Ctrl-] or the guest's end: to the virtio
// console where the guest has one, unless serial is set. An empty name means the only guest that
// runs.
[[nodiscard]] Result<> attach_console(const std::string& name, bool serial);

// Carries bytes between a socket and standard input and output until the socket's end, or on a
// terminal until kEscapeKey; first is what has come from the socket already. What the socket does
// not take holds up standard input, but not a terminal, where the escape key must get through: that
// loses what is typed beyond 64 KiB ahead. on_size is called now and whenever the terminal's size
// changes; SIGWINCH is blocked meanwhile. For a program's only thread.
[[nodiscard]] Result<> carry_console(const Fd& socket, std::string_view first,
                                     const std::function<void(TerminalSize)>& on_size);

}  // namespace vmm
