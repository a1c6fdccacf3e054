#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string_view>

#include "kvm/vm.h"
#include "kvm/vm_stats.h"
#include "memory/dirty_log.h"

namespace vmm::kvm {

// KVM's log of one memslot. Set up so that turning it on costs nothing and clearing works in
// chunks: manual protection with all pages set at first, and large stage-2 mappings split when a
// chunk is cleared, not by a fault of the guest, where the kernel offers these.
class KvmDirtyLog final : public DirtyLog {
 public:
  // Makes the memslot, as Vm::set_memory() does, and prepares the VM for logging; the VM has no
  // memslot yet, and outlives this, as does memory.
  [[nodiscard]] static Result<std::unique_ptr<KvmDirtyLog>> create(Vm& vm, std::uint32_t slot,
                                                                   std::uint64_t ipa,
                                                                   std::span<std::byte> memory);

  [[nodiscard]] std::uint64_t pages() const override;
  [[nodiscard]] bool offers(DirtyLogMode mode) const override;
  // An error leaves logging off.
  [[nodiscard]] Result<> start(DirtyLogMode mode) override;
  [[nodiscard]] Result<> set_mode(DirtyLogMode mode) override;
  // What the kernel itself says.
  [[nodiscard]] Result<DirtyLogMode> mode_in_force() const;
  [[nodiscard]] Result<std::uint64_t> armed() const override;
  [[nodiscard]] Result<> get(std::span<std::uint64_t> bits) override;
  [[nodiscard]] Result<> clear(PageRange range, std::span<const std::uint64_t> bits) override;
  // Also goes back to write protection, and tries all of it even if a part fails.
  [[nodiscard]] Result<> stop() override;

 private:
  KvmDirtyLog(Vm& vm, std::optional<VmStats> stats, std::uint32_t slot, std::uint64_t ipa,
              std::span<std::byte> memory, bool hardware)
      : vm_(vm),
        stats_(std::move(stats)),
        slot_(slot),
        ipa_(ipa),
        memory_(memory),
        hardware_(hardware) {}

  [[nodiscard]] Result<std::uint64_t> statistic(std::string_view name) const;
  [[nodiscard]] Result<> set_slot(bool logging);
  [[nodiscard]] Result<> request_mode(DirtyLogMode mode);
  [[nodiscard]] Result<> expect_mode(DirtyLogMode mode) const;
  [[nodiscard]] Result<> turn_on(DirtyLogMode mode);

  Vm& vm_;
  std::optional<VmStats> stats_;  // from Linux 5.14 on
  const std::uint32_t slot_;
  const std::uint64_t ipa_;
  const std::span<std::byte> memory_;
  const bool hardware_;  // KVM_CAP_ARM_HW_DIRTY_LOG offers it
  bool on_ = false;
};

}  // namespace vmm::kvm
