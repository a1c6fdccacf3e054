#pragma once

#include <string>
#include <string_view>

#include "base/bytes.h"
#include "base/result.h"

// Text to and from the peer.
namespace vmm::migration {

// Text as it may travel and be shown on the peer's terminal: printable ASCII, at most kMaxText
// bytes; what is not becomes '?', what is too long ends in "...".
[[nodiscard]] std::string printable(std::string_view text);

// The text itself. Error (kFailed) where it is not printable ASCII.
[[nodiscard]] Result<std::string> check_printable(std::string text);
// Length (u32) of at most kMaxText, then as many bytes, which have to be printable.
[[nodiscard]] Result<std::string> get_text(ByteReader& in);

}  // namespace vmm::migration
