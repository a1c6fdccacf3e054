#include "vmm/interrupt.h"

#include <signal.h>

#include <atomic>
#include <cstdlib>

namespace vmm {
namespace {

std::atomic<bool> seen = false;
static_assert(std::atomic<bool>::is_always_lock_free);

}  // namespace

void catch_interrupts() {
  seen = false;
  struct sigaction action {};
  action.sa_handler = [](int) { seen = true; };
  for (const int signal : {SIGINT, SIGTERM}) {
    if (::sigaction(signal, &action, nullptr) != 0) std::abort();
  }
}

bool interrupted() {
  return seen;
}

}  // namespace vmm
