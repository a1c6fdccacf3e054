#include "fuzz.h"

// libFuzzer's entry points, for a program with one target.

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  vmm::fuzz::prepare();
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  vmm::fuzz::Input input(std::as_bytes(std::span(data, size)));
  vmm::fuzz::targets().front().run(input);
  return 0;
}
