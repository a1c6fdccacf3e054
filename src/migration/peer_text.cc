#include "migration/peer_text.h"

#include <algorithm>
#include <utility>

#include "migration/limits.h"

namespace vmm::migration {
namespace {

bool is_printable(char c) {
  return c >= ' ' && c <= '~';
}

}  // namespace

std::string printable(std::string_view text) {
  constexpr std::string_view kCut = "...";
  std::string fit(text.substr(0, kMaxText));
  std::ranges::replace_if(
      fit, [](char c) { return !is_printable(c); }, '?');
  if (text.size() > kMaxText) fit.replace(kMaxText - kCut.size(), kCut.size(), kCut);
  return fit;
}

Result<std::string> check_printable(std::string text) {
  if (!std::ranges::all_of(text, is_printable)) {
    return fail(ErrorKind::kFailed, "a text of the peer has characters that are not printable");
  }
  return text;
}

Result<std::string> get_text(ByteReader& in) {
  TRY(auto text, in.get_string(kMaxText));
  return check_printable(std::move(text));
}

}  // namespace vmm::migration
