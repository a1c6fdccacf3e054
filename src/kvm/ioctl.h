#pragma once

#include <sys/ioctl.h>

#include <cerrno>

#include "base/fd.h"
#include "base/result.h"

namespace vmm::kvm {

// ioctl(2) on a KVM descriptor, repeated on EINTR; the error, of kind kHost, names the request.
// Returns the ioctl's own value.
template <typename Argument>
[[nodiscard]] Result<int> call(const Fd& fd, unsigned long request, const char* name,
                               Argument argument) {
  for (;;) {
    const int value = ::ioctl(fd.get(), request, argument);
    if (value >= 0) return value;
    if (errno != EINTR) return fail_errno(ErrorKind::kHost, "{} failed", name);
  }
}

}  // namespace vmm::kvm

// KVM_CALL(fd, KVM_X, argument): call() with the request's own name in the error.
#define KVM_CALL(fd, request, argument) ::vmm::kvm::call((fd), (request), #request, (argument))
