#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "base/fd.h"
#include "base/mapping.h"
#include "base/result.h"
#include "kvm/counter.h"
#include "kvm/cpu_identity.h"
#include "kvm/runnable_vcpu.h"
#include "kvm/vcpu_state.h"

struct kvm_run;

namespace vmm::kvm {

// Optional parts of the CPU that a guest may be given.
struct VcpuFeatures {
  bool sve = false;
  bool pauth = false;
  bool pmu = false;
  // With sve: the vector lengths of the guest, of another host; empty for all that this host has.
  SveLengths sve_lengths = {};
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

  // Saving and restoring are for any thread while the vCPU's own is not in run(), with run()
  // having come back as Interrupted last: else what the guest did last may be incomplete.

  // All of the vCPU but its interrupts and the counters.
  [[nodiscard]] Result<VcpuState> save() const;
  // Makes the vCPU what another of the same features and index was, whatever it was before. The
  // counters come after it (restore_counter()). Values come from a peer: what KVM refuses is an
  // error that names the register, and leaves a vCPU that must not run.
  [[nodiscard]] Result<> restore(const VcpuState& state);

  // What the guest can tell its CPU by.
  [[nodiscard]] Result<CpuIdentity> identity() const;
  // Gives the guest's CPU the identity it had at the source as far as KVM lets it be written,
  // before any vCPU of the VM has run. Error (kHost) that names each register and field that stays
  // different, with both values.
  [[nodiscard]] Result<> apply(const CpuIdentity& source);

  // The counters, which all vCPUs of a VM share: one of them is asked, while none runs.
  [[nodiscard]] Result<Counter> save_counter() const;
  // Sets them to what they were, plus the time since: for the whole VM, on one vCPU, while none
  // runs, after all registers of all vCPUs. May be repeated; the last one counts. Error (kHost)
  // where the counters tick at another frequency.
  [[nodiscard]] Result<> restore_counter(const Counter& counter, std::uint64_t elapsed_ns);

  [[nodiscard]] Result<Exit> run() override;
  void request_exit() override;
  void allow_run() override;
  [[nodiscard]] Result<> inject_data_abort() override;
  [[nodiscard]] Result<std::uint64_t> program_counter() const override;

 private:
  Vcpu(Fd fd, Mapping run, std::uint32_t target, std::uint32_t features)
      : fd_(std::move(fd)), run_mapping_(std::move(run)), target_(target), features_(features) {}

  [[nodiscard]] kvm_run& run_page() const;
  [[nodiscard]] Result<std::uint64_t> get_register(std::uint64_t id) const;
  [[nodiscard]] Result<> set_register(std::uint64_t id, std::uint64_t value);
  [[nodiscard]] Exit decode_exit() const;
  [[nodiscard]] Result<std::vector<std::uint64_t>> register_ids() const;
  [[nodiscard]] Result<RegisterValue> get_value(std::uint64_t id) const;
  [[nodiscard]] Result<> set_value(const RegisterValue& value);
  [[nodiscard]] Result<> restore_register(const RegisterValue& value);
  [[nodiscard]] Result<> restore_serror(const VcpuState& state);
  [[nodiscard]] Result<> restore_power(PowerState power);

  Fd fd_;
  Mapping run_mapping_;
  std::uint32_t target_;    // of KVM_ARM_VCPU_INIT, with which the vCPU can be reset
  std::uint32_t features_;  // likewise
};

}  // namespace vmm::kvm
