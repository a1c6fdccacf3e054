#include "devices/virtio/rng.h"

#include <sys/random.h>

#include <cerrno>

#include "device_fuzzer.h"

namespace {

// The host's random numbers are the same in every run; now and then there are fewer than asked for,
// or none yet.
unsigned calls = 0;

}  // namespace

// Takes the place of the C library's.
ssize_t getrandom(void* buffer, size_t length, unsigned) {
  ++calls;
  if (calls % 16 == 15) {
    errno = calls % 32 == 15 ? EINTR : EAGAIN;
    return -1;
  }
  const size_t given = calls % 4 == 3 ? length / 2 + length % 2 : length;
  std::memset(buffer, 0x5a, given);
  return static_cast<ssize_t>(given);
}

namespace vmm::fuzz {
namespace {

void run(Input& input) {
  calls = 0;
  DeviceFuzzer fuzzer(
      [](GuestMemory&, EventLoop& loop) { return std::make_unique<virtio::Rng>("rng", loop); });
  fuzzer.run(input);
}

const Target kTarget{"rng", run};

}  // namespace
}  // namespace vmm::fuzz
