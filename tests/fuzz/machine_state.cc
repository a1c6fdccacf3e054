#include "vmm/machine_state.h"

#include "devices/pl061.h"
#include "fuzz_channels.h"

// What KVM and the devices keep of a machine, and what its CPUs are, from a peer. The first byte
// says which.
namespace vmm::fuzz {
namespace {

class NoLine final : public InterruptLine {
 public:
  void set_level(bool /*level*/) override {}
};

void identity(std::span<const std::byte> bytes) {
  const auto decoded = decode_identity(bytes);
  if (!decoded) return check_error(decoded.error());
  check(std::ranges::equal(encode(decoded.value()), bytes), "an identity is encoded as it came");
  const auto& cpu = decoded.value().cpu;
  check(compare(cpu, cpu).empty(), "a CPU does not differ from itself");
  check(describe(compare(cpu, {})).size() < 16'384, "a list of differences is cut");
}

void state(std::span<const std::byte> bytes, std::size_t vcpus) {
  ByteReader reader(bytes);
  const auto decoded = decode_state(reader, vcpus);
  if (!decoded) return check_error(decoded.error());
  const auto& [cpus, gic, counter] = decoded.value();
  check(cpus.size() == vcpus, "a state has the vCPUs of the machine");
  check(gic.cpus.size() <= kvm::GicState::kMaxCpus, "an interrupt controller has few vCPUs");
  check(counter.frequency_hz != 0, "a counter counts");
  static_cast<void>(kvm::counter_ticks(~std::uint64_t{0}, counter.frequency_hz));
  ByteWriter writer;
  encode(decoded.value(), writer);
  check(std::ranges::equal(writer.bytes(), bytes.first(bytes.size() - reader.remaining())),
        "a state is encoded as it came");
}

void devices(std::span<const std::byte> bytes) {
  NoLine line;
  Pl061 first(line);
  Pl061 second(line);
  const std::array<Device*, 2> both{&first, &second};
  ByteReader reader(bytes);
  if (const auto restored = restore_devices(both, reader); !restored) {
    return check_error(restored.error());
  }
  ByteWriter writer;
  save_devices(both, writer);
  check(std::ranges::equal(writer.bytes(), bytes.first(bytes.size() - reader.remaining())),
        "devices are saved as they were restored");
}

void run(Input& input) {
  const auto what = input.below(4);
  const auto bytes = input.rest();
  if (what == 0) return identity(bytes);
  if (what == 3) return devices(bytes);
  state(bytes, what);
}

const Target kTarget{"machine_state", run};

}  // namespace
}  // namespace vmm::fuzz
