#include "load/measured.h"

#include <chrono>
#include <cstdio>
#include <thread>

namespace vmm::load {
namespace {

constexpr std::uint64_t kWarmUpPart = 10;
constexpr std::chrono::milliseconds kPause(100);

}  // namespace

Result<> measured(const std::string& name, std::uint64_t count,
                  const std::function<Result<>(std::uint64_t)>& work) {
  TRY(work(count / kWarmUpPart));
  std::printf("load: begin %s\n", name.c_str());
  std::fflush(stdout);
  std::this_thread::sleep_for(kPause);
  const auto begin = std::chrono::steady_clock::now();
  TRY(work(count));
  const auto elapsed = std::chrono::steady_clock::now() - begin;
  std::this_thread::sleep_for(kPause);
  std::putchar('\n');
  std::fflush(stdout);
  std::this_thread::sleep_for(kPause);
  std::printf("load: end %s count=%llu us=%lld\n", name.c_str(),
              static_cast<unsigned long long>(count),
              static_cast<long long>(
                  std::chrono::duration_cast<std::chrono::microseconds>(elapsed).count()));
  std::fflush(stdout);
  return success();
}

}  // namespace vmm::load
