#pragma once

#include <cstdint>
#include <memory>

#include "base/fd.h"
#include "base/mapping.h"
#include "base/result.h"
#include "kvm/runnable_vcpu.h"

struct kvm_run;

namespace vmm::kvm {

// Optional parts of the CPU that a guest may be given.
struct VcpuFeatures {
  bool sve = false;
  bool pauth = false;
  bool pmu = false;
};

// A virtual CPU of KVM.
class Vcpu final : public RunnableVcpu {
 public:
  // Takes a descriptor made by KVM_CREATE_VCPU and initialises the vCPU; target is
  // KVM_ARM_PREFERRED_TARGET's answer.
  [[nodiscard]] static Result<std::unique_ptr<Vcpu>> adopt(Fd fd, unsigned index,
                                                           std::size_t run_size,
                                                           std::uint32_t target,
                                                           const VcpuFeatures& features);

  // Sets the performance monitor's interrupt (a PPI's INTID, 16 to 31) and initialises it; call
  // after the GIC exists, for a vCPU that has the feature.
  [[nodiscard]] Result<> init_pmu(std::uint32_t interrupt);

  // Entry point and first argument (x0) of a vCPU that starts running without PSCI CPU_ON.
  [[nodiscard]] Result<> set_boot_registers(std::uint64_t pc, std::uint64_t x0);

  // MPIDR_EL1's affinity fields, as the device tree's `reg` of the CPU wants them.
  [[nodiscard]] Result<std::uint64_t> affinity() const;

  [[nodiscard]] Result<Exit> run() override;
  void request_exit() override;
  void allow_run() override;
  [[nodiscard]] Result<> inject_data_abort() override;
  [[nodiscard]] Result<std::uint64_t> program_counter() const override;

 private:
  Vcpu(Fd fd, Mapping run) : fd_(std::move(fd)), run_mapping_(std::move(run)) {}

  [[nodiscard]] kvm_run& run_page() const;
  [[nodiscard]] Result<std::uint64_t> get_register(std::uint64_t id) const;
  [[nodiscard]] Result<> set_register(std::uint64_t id, std::uint64_t value);
  [[nodiscard]] Exit decode_exit() const;

  Fd fd_;
  Mapping run_mapping_;
};

}  // namespace vmm::kvm
