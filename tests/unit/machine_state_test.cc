#include "vmm/machine_state.h"

#include <algorithm>
#include <array>

#include "kvm/id_registers.h"
#include "kvm/register_id.h"
#include "vmm_support.h"

namespace vmm {
namespace {

constexpr std::uint64_t kX0 = kvm::kRegisterArm64 | kvm::kRegisterU64 | 0x10'0000;
constexpr std::uint64_t kMidr = kvm::system_register(3, 0, 0, 0, 0);

MachineIdentity identity() {
  MachineIdentity identity;
  identity.cpu.counter_hz = 62'500'000;
  identity.cpu.page_size = 4096;
  identity.cpu.dczid = 4;
  identity.cpu.registers = {{kMidr, 0x410f'd0f0}};
  identity.cpu.register_ids = {kMidr, kX0};
  identity.gic_iidr = 0x4b00'243b;
  return identity;
}

kvm::GicState gic_state() {
  kvm::GicState gic;
  gic.iidr = 0x4b00'243b;
  gic.typer = 3;  // 128 interrupts
  gic.distributor.resize(kvm::gic_distributor_registers(128).size(), 1);
  gic.line_levels.resize(3, 2);
  for (std::uint64_t affinity = 0; affinity < 2; ++affinity) {
    kvm::GicState::Cpu cpu;
    cpu.affinity = affinity;
    cpu.redistributor.resize(kvm::gic_redistributor_registers().size(), 3);
    cpu.control = 4 << 8;  // five priority bits
    cpu.interface.resize(kvm::gic_interface_registers(cpu.control).size(), 4);
    gic.cpus.push_back(std::move(cpu));
  }
  return gic;
}

MachineState machine_state() {
  MachineState state;
  for (unsigned vcpu = 0; vcpu < 2; ++vcpu) {
    kvm::VcpuState saved;
    saved.registers = {
        {kX0, std::vector<std::byte>(8, std::byte{static_cast<unsigned char>(vcpu)})}};
    state.vcpus.push_back(std::move(saved));
  }
  state.vcpus[1].power = kvm::PowerState::kOff;
  state.gic = gic_state();
  state.counter = {62'500'000, 1234, 5678};
  return state;
}

std::vector<std::byte> encoded(const MachineState& state) {
  ByteWriter writer;
  encode(state, writer);
  return writer.take();
}

TEST(MachineIdentityTest, SurvivesTheMove) {
  const auto bytes = encode(identity());
  const auto decoded = decode_identity(bytes);
  ASSERT_TRUE(decoded) << decoded.error().message();
  EXPECT_EQ(decoded.value(), identity());
}

TEST(MachineIdentityTest, BytesThatEndEarlyOrGoOnAreRefused) {
  auto bytes = encode(identity());
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    EXPECT_FALSE(decode_identity(std::span(bytes).first(size))) << size;
  }
  bytes.push_back(std::byte{0});
  EXPECT_FALSE(decode_identity(bytes));
}

TEST(MachineIdentityTest, AnotherVersionIsNamed) {
  auto bytes = encode(identity());
  bytes[0] = std::byte{9};
  expect_error(decode_identity(bytes), ErrorKind::kFailed, "version 9, and 1 is known here");
}

TEST(MachineStateTest, SurvivesTheMoveAndLeavesWhatFollowsIt) {
  auto bytes = encoded(machine_state());
  bytes.push_back(std::byte{0x5a});
  ByteReader reader(bytes);
  const auto decoded = decode_state(reader, 2);
  ASSERT_TRUE(decoded) << decoded.error().message();
  EXPECT_EQ(decoded.value(), machine_state());
  EXPECT_EQ(reader.remaining(), 1U);
}

TEST(MachineStateTest, BytesThatEndEarlyAreRefusedWhereverTheyEnd) {
  const auto bytes = encoded(machine_state());
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    ByteReader reader{std::span(bytes).first(size)};
    EXPECT_FALSE(decode_state(reader, 2)) << size;
  }
}

TEST(MachineStateTest, AnotherVersionIsNamed) {
  auto bytes = encoded(machine_state());
  bytes[0] = std::byte{2};
  ByteReader reader(bytes);
  expect_error(decode_state(reader, 2), ErrorKind::kFailed, "version 2, and 1 is known here");
}

TEST(MachineStateTest, AnotherNumberOfVcpusIsNamed) {
  const auto bytes = encoded(machine_state());
  for (const std::size_t vcpus : {std::size_t{0}, std::size_t{1}, std::size_t{3}}) {
    ByteReader reader(bytes);
    expect_error(decode_state(reader, vcpus), ErrorKind::kFailed,
                 fmt::format("of 2 vCPUs, and the machine has {}", vcpus));
  }
  auto huge = bytes;
  std::ranges::fill(std::span(huge).subspan(4, 4), std::byte{0xff});
  ByteReader reader(huge);
  expect_error(decode_state(reader, 2), ErrorKind::kFailed, "of 4294967295 vCPUs");
}

// A device whose state is one byte that must not be 13.
class ByteDevice final : public Device {
 public:
  ByteDevice(std::string name, std::uint8_t state) : state_(state), name_(std::move(name)) {}

  [[nodiscard]] std::string_view name() const override { return name_; }
  void reset() override {
    state_ = 0;
    ++resets;
  }
  void save(ByteWriter& writer) const override { writer.put(state_); }
  [[nodiscard]] Result<> restore(ByteReader& reader) override {
    TRY(const auto value, reader.get<std::uint8_t>());
    if (value == 13) return fail(ErrorKind::kFailed, "13 is no state");
    state_ = value;
    return success();
  }

  std::uint8_t state_;
  int resets = 0;

 private:
  std::string name_;
};

// Two devices with their saved states.
class DeviceStatesTest : public ::testing::Test {
 protected:
  DeviceStatesTest() {
    ByteDevice uart("uart", 7);
    ByteDevice disk("disk0", 9);
    const std::array<Device*, 2> saved{&uart, &disk};
    ByteWriter writer;
    save_devices(saved, writer);
    bytes_ = writer.take();
  }
  Result<> restore(std::span<const std::byte> bytes) {
    const std::array<Device*, 2> devices{&uart_, &disk_};
    ByteReader reader(bytes);
    TRY(restore_devices(devices, reader));
    return reader.expect_end();
  }

  ByteDevice uart_{"uart", 1};
  ByteDevice disk_{"disk0", 1};
  std::vector<std::byte> bytes_;
};

TEST_F(DeviceStatesTest, EachDeviceGetsItsOwnAfterAReset) {
  ASSERT_TRUE(restore(bytes_));
  EXPECT_EQ(uart_.state_, 7);
  EXPECT_EQ(disk_.state_, 9);
  EXPECT_EQ(uart_.resets, 1);
  EXPECT_EQ(disk_.resets, 1);
}

TEST_F(DeviceStatesTest, BytesThatEndEarlyOrGoOnAreRefused) {
  for (std::size_t size = 0; size < bytes_.size(); ++size) {
    EXPECT_FALSE(restore(std::span(bytes_).first(size))) << size;
  }
  bytes_.push_back(std::byte{0});
  EXPECT_FALSE(restore(bytes_));
}

TEST_F(DeviceStatesTest, AnotherNumberOfDevicesIsNamed) {
  const std::array<Device*, 1> devices{&uart_};
  ByteReader reader(bytes_);
  expect_error(restore_devices(devices, reader), ErrorKind::kFailed,
               "of 2 devices, and the machine has 1");
  EXPECT_EQ(uart_.resets, 0);
}

TEST_F(DeviceStatesTest, ADeviceOfAnotherNameIsNamed) {
  ByteDevice other("disk1", 1);
  const std::array<Device*, 2> devices{&uart_, &other};
  ByteReader reader(bytes_);
  expect_error(restore_devices(devices, reader), ErrorKind::kFailed,
               "of device disk0 where the machine has disk1");
}

TEST_F(DeviceStatesTest, ANameFromThePeerIsFitForATerminal) {
  ByteWriter writer;
  writer.put(std::uint32_t{2});
  writer.put_string("\x1b[2J\x9b");
  expect_error(restore(writer.bytes()), ErrorKind::kFailed, "of device ?[2J? where");
}

TEST_F(DeviceStatesTest, ErrorsSayWhichDeviceRefused) {
  bytes_.back() = std::byte{13};
  expect_error(restore(bytes_), ErrorKind::kFailed, "disk0: 13 is no state");
}

TEST_F(DeviceStatesTest, AStateThatIsLongerThanItsDeviceReadsIsRefused) {
  ByteWriter writer;
  writer.put(std::uint32_t{2});
  writer.put_string("uart");
  writer.put_blob(std::array{std::byte{1}, std::byte{2}});
  expect_error(restore(writer.bytes()), ErrorKind::kFailed, "uart");
}

TEST_F(DeviceStatesTest, LengthsBeyondAnyDevicesAreRefusedBeforeAnythingIsAllocated) {
  ByteWriter writer;
  writer.put(std::uint32_t{2});
  writer.put(std::uint32_t{0xffff'ffff});
  EXPECT_FALSE(restore(writer.bytes()));
}

}  // namespace
}  // namespace vmm
