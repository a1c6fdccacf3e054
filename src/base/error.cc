#include "base/error.h"

#include <system_error>

namespace vmm {

std::string Error::message() const {
  std::string text;
  for (auto it = context_.rbegin(); it != context_.rend(); ++it) {
    text += *it;
    text += ": ";
  }
  text += what_;
  if (errno_ != 0) {
    text += ": ";
    text += std::generic_category().message(errno_);
  }
  return text;
}

}  // namespace vmm
