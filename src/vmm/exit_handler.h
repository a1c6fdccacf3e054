#pragma once

#include <atomic>
#include <cstdint>

#include "base/result.h"
#include "devices/mmio_bus.h"
#include "kvm/exit.h"

namespace vmm {

// What the thread of a vCPU does after an exit.
enum class VcpuAction { kContinue, kInjectAbort, kShutdown, kReset, kCrash };

// Exits of one vCPU, counted by its thread and read by any.
struct ExitCounts {
  std::atomic<std::uint64_t> mmio_reads{0};
  std::atomic<std::uint64_t> mmio_writes{0};
  std::atomic<std::uint64_t> unclaimed{0};  // MMIO that no device answers: reads as zero
  std::atomic<std::uint64_t> undecoded{0};
  std::atomic<std::uint64_t> interrupted{0};
};

// Carries out an exit on the devices of bus. Error where KVM cannot go on with the vCPU.
[[nodiscard]] Result<VcpuAction> handle_exit(const kvm::Exit& exit, const MmioBus& bus,
                                             ExitCounts& counts);

}  // namespace vmm
