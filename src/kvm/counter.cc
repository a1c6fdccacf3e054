#include "kvm/counter.h"

namespace vmm::kvm {
namespace {

constexpr std::uint32_t kVersion = 1;

}  // namespace

void Counter::save(ByteWriter& writer) const {
  writer.put(kVersion);
  writer.put(frequency_hz);
  writer.put(virtual_count);
  writer.put(physical_count);
}

Result<Counter> Counter::restore(ByteReader& reader) {
  TRY(const auto version, reader.get<std::uint32_t>());
  if (version != kVersion) {
    return fail(ErrorKind::kFailed, "counter has version {}, {} is understood here", version,
                kVersion);
  }
  Counter counter;
  TRY(counter.frequency_hz, reader.get<std::uint64_t>());
  if (counter.frequency_hz < kMinHz || counter.frequency_hz > kMaxHz) {
    return fail(ErrorKind::kFailed, "counter frequency is {} Hz, {} to {} are allowed",
                counter.frequency_hz, kMinHz, kMaxHz);
  }
  TRY(counter.virtual_count, reader.get<std::uint64_t>());
  TRY(counter.physical_count, reader.get<std::uint64_t>());
  return counter;
}

std::uint64_t counter_ticks(std::uint64_t nanoseconds, std::uint64_t frequency_hz) {
  constexpr std::uint64_t kNsPerSecond = 1'000'000'000;
  // The remainder is below 1e9 and the frequency at most 4e9, so the product fits.
  return nanoseconds / kNsPerSecond * frequency_hz +
         nanoseconds % kNsPerSecond * frequency_hz / kNsPerSecond;
}

}  // namespace vmm::kvm
