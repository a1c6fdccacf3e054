#pragma once

#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "base/mapping.h"
#include "kvm/gic.h"
#include "kvm/system.h"
#include "kvm/vcpu.h"
#include "kvm/vm.h"

namespace vmm::kvm {

inline constexpr std::uint64_t kRam = 0x4000'0000;
inline constexpr std::uint64_t kDevice = 0x0900'0000;  // no memslot: every access is an exit
inline constexpr std::uint64_t kDistributor = 0x0800'0000;
inline constexpr std::uint64_t kRedistributors = 0x080A'0000;
inline constexpr unsigned kIpaBits = 36;
inline constexpr unsigned kSpiCount = 32;
inline constexpr std::size_t kRamSize = 64 * 1024;

inline std::uint64_t little_endian(std::span<const std::byte> data) {
  std::uint64_t value = 0;
  std::memcpy(&value, data.data(), data.size());
  return value;
}

// A virtual machine with a few pages of RAM, for guests of a few instructions. The MMU of the guest
// is off, so its addresses are guest-physical ones. A test that takes 20 seconds ends the program:
// first by interrupting KVM_RUN, which says where the guest is, then by the signal itself.
class GuestTest : public ::testing::Test {
 protected:
  static constexpr unsigned kSeconds = 20;

  GuestTest() {
    struct sigaction action {};
    action.sa_handler = [](int) { ::alarm(1); };
    action.sa_flags = static_cast<int>(SA_RESETHAND);
    ::sigaction(SIGALRM, &action, nullptr);
    ::alarm(kSeconds);
  }
  ~GuestTest() override {
    ::alarm(0);
    // Pages that held guest code are not given back: QEMU 7.2 was seen to run translations of what
    // a page had held for its last guest.
    static auto* const kept = new std::vector<Mapping>;
    kept->push_back(std::move(ram_));
  }

  // Makes the VM with its vCPUs and GIC, and puts code at the start of RAM. The first vCPU starts
  // there with the device's address in x0.
  void start(std::span<const std::uint32_t> code, unsigned vcpu_count = 1,
             const VcpuFeatures& features = {}) {
    auto system = System::open();
    ASSERT_TRUE(system) << system.error().message();
    auto vm = system.value().create_vm(kIpaBits);
    ASSERT_TRUE(vm) << vm.error().message();
    vm_.emplace(std::move(vm).value());
    auto ram = Mapping::anonymous(kRamSize, 64 * 1024);
    ASSERT_TRUE(ram) << ram.error().message();
    ram_ = std::move(ram).value();
    put_code(0, code);
    const auto slot = vm_->set_memory(0, kRam, ram_.bytes());
    ASSERT_TRUE(slot) << slot.error().message();
    for (unsigned index = 0; index < vcpu_count; ++index) {
      auto vcpu = vm_->create_vcpu(index, features);
      ASSERT_TRUE(vcpu) << vcpu.error().message();
      vcpus_.push_back(std::move(vcpu).value());
    }
    auto gic = vm_->create_gic(kDistributor, kRedistributors, kSpiCount);
    ASSERT_TRUE(gic) << gic.error().message();
    gic_.emplace(std::move(gic).value());
    const auto entry = vcpus_[0]->set_boot_registers(kRam, kDevice);
    ASSERT_TRUE(entry) << entry.error().message();
  }

  void put_code(std::size_t offset, std::span<const std::uint32_t> code) {
    std::memcpy(ram_.data() + offset, code.data(), code.size_bytes());
  }

  Vcpu& vcpu(unsigned index = 0) { return *vcpus_[index]; }

  // The next exit of a vCPU, which must be of this type.
  template <typename Wanted>
  Wanted run_to(unsigned index = 0) {
    auto exit = vcpu(index).run();
    if (!exit) {
      ADD_FAILURE() << exit.error().message();
      std::abort();
    }
    const auto* wanted = std::get_if<Wanted>(&exit.value());
    if (wanted == nullptr) {
      ADD_FAILURE() << "another exit, of variant index " << exit.value().index() << ", pc "
                    << std::hex << vcpu(index).program_counter().value();
      std::abort();  // what follows has no meaning without it
    }
    return *wanted;
  }

  // Expects the guest to store `value` in `size` bytes at an offset of the device.
  void expect_write(std::uint64_t offset, std::uint64_t value, std::size_t size = 8,
                    unsigned index = 0) {
    const auto write = run_to<MmioWrite>(index);
    EXPECT_EQ(write.address, kDevice + offset);
    EXPECT_EQ(write.data.size(), size);
    EXPECT_EQ(little_endian(write.data), value) << std::hex << little_endian(write.data);
  }

  // What the guest stores next.
  [[nodiscard]] std::uint64_t written() { return little_endian(run_to<MmioWrite>().data); }

  Mapping ram_;
  std::optional<Vm> vm_;
  std::optional<Gic> gic_;
  std::vector<std::unique_ptr<Vcpu>> vcpus_;
};

}  // namespace vmm::kvm
