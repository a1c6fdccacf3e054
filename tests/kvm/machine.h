#pragma once

#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "guest_fixture.h"
#include "kvm/dirty_log.h"

namespace vmm::kvm {

// The value of a result that a test cannot go on without.
template <typename T>
T must(Result<T> result) {
  if (!result) {
    ADD_FAILURE() << result.error().message();
    std::abort();
  }
  return std::move(result).value();
}
inline void must(Result<> result) {
  if (!result) {
    ADD_FAILURE() << result.error().message();
    std::abort();
  }
}

// A virtual machine, of which a test may have several: source and destination of a guest.
struct Machine {
  std::optional<Vm> vm;
  Mapping ram;
  std::unique_ptr<KvmDirtyLog> log;
  std::vector<std::unique_ptr<Vcpu>> vcpus;
  std::vector<std::uint64_t> affinities;
  std::optional<Gic> gic;

  explicit Machine(unsigned vcpu_count, const VcpuFeatures& features = {},
                   std::size_t ram_size = kRamSize) {
    vm.emplace(must(must(System::open()).create_vm(kIpaBits)));
    ram = must(Mapping::anonymous(ram_size, 2 * 1024 * 1024));
    log = must(KvmDirtyLog::create(*vm, 0, kRam, ram.bytes()));
    for (unsigned index = 0; index < vcpu_count; ++index) {
      vcpus.push_back(must(vm->create_vcpu(index, features)));
      affinities.push_back(must(vcpus.back()->affinity()));
    }
    gic.emplace(must(vm->create_gic(kDistributor, kRedistributors, kSpiCount)));
    must(vcpus[0]->set_boot_registers(kRam, kDevice));
  }
  Machine(const Machine&) = delete;
  Machine& operator=(const Machine&) = delete;
  ~Machine() {
    // As in GuestTest: pages that held guest code are not given back.
    static auto* const kept = new std::vector<Mapping>;
    kept->push_back(std::move(ram));
  }

  void put_code(std::span<const std::uint32_t> code) {
    std::memcpy(ram.data(), code.data(), code.size_bytes());
  }

  // What the guest stores in the device next.
  [[nodiscard]] std::uint64_t written(unsigned index = 0) {
    const auto exit = must(vcpus[index]->run());
    const auto* write = std::get_if<MmioWrite>(&exit);
    if (write == nullptr) {
      ADD_FAILURE() << "another exit, of variant index " << exit.index();
      std::abort();
    }
    return little_endian(write->data);
  }

  // Gives the guest's next load from the device this value.
  void answer(std::uint64_t value, unsigned index = 0) {
    const auto exit = must(vcpus[index]->run());
    const auto* read = std::get_if<MmioRead>(&exit);
    if (read == nullptr) {
      ADD_FAILURE() << "another exit, of variant index " << exit.index();
      std::abort();
    }
    std::memcpy(read->data.data(), &value, read->data.size());
  }

  // Completes the exit that the vCPU came back with, as a pause does.
  void settle(unsigned index = 0) {
    vcpus[index]->request_exit();
    const auto exit = must(vcpus[index]->run());
    EXPECT_TRUE(std::holds_alternative<Interrupted>(exit));
    vcpus[index]->allow_run();
  }
};

// As a peer would get it: what is saved goes through bytes.
template <typename State>
State through_bytes(const State& state) {
  ByteWriter writer;
  state.save(writer);
  ByteReader reader(writer.bytes());
  return must(State::restore(reader));
}

}  // namespace vmm::kvm
