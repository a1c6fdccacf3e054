#include "madvise_fault.h"

#include <sys/types.h>

#include <atomic>
#include <cerrno>
#include <cstdlib>

namespace vmm {
namespace {

std::atomic<int> failing_advice = -1;  // none
std::atomic<int> failing_error = 0;

}  // namespace

MadviseFault::MadviseFault(int advice, int error) {
  failing_error = error;
  if (failing_advice.exchange(advice) != -1) std::abort();
}

MadviseFault::~MadviseFault() {
  failing_advice = -1;
}

}  // namespace vmm

// The linker has all calls come here first (--wrap).
extern "C" {

int __real_madvise(void* address, std::size_t size, int advice);
int __wrap_madvise(void* address, std::size_t size, int advice) {
  if (advice != vmm::failing_advice) return __real_madvise(address, size, advice);
  errno = vmm::failing_error;
  return -1;
}

}  // extern "C"
