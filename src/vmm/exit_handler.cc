#include "vmm/exit_handler.h"

#include <algorithm>

namespace vmm {
namespace {

// Only the vCPU's own thread counts, so a plain load and store are enough.
void count(std::atomic<std::uint64_t>& counter) {
  counter.store(counter.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
}

struct Handler {
  const MmioBus& bus;
  ExitCounts& counts;

  Result<VcpuAction> operator()(const kvm::MmioRead& read) const {
    count(counts.mmio_reads);
    if (!bus.read(read.address, read.data)) {
      count(counts.unclaimed);
      std::ranges::fill(read.data, std::byte{0});
    }
    return VcpuAction::kContinue;
  }

  Result<VcpuAction> operator()(const kvm::MmioWrite& write) const {
    count(counts.mmio_writes);
    if (!bus.write(write.address, write.data)) count(counts.unclaimed);
    return VcpuAction::kContinue;
  }

  Result<VcpuAction> operator()(const kvm::UndecodedAccess&) const {
    count(counts.undecoded);
    return VcpuAction::kInjectAbort;
  }

  Result<VcpuAction> operator()(kvm::SystemEvent event) const {
    switch (event) {
      case kvm::SystemEvent::kShutdown:
        return VcpuAction::kShutdown;
      case kvm::SystemEvent::kReset:
        return VcpuAction::kReset;
      case kvm::SystemEvent::kCrash:
        break;
    }
    return VcpuAction::kCrash;
  }

  Result<VcpuAction> operator()(const kvm::Interrupted&) const {
    count(counts.interrupted);
    return VcpuAction::kContinue;
  }

  Result<VcpuAction> operator()(const kvm::Failure& failure) const {
    return fail(ErrorKind::kFailed, "KVM cannot run the vCPU: exit reason {}, detail {:#x}",
                failure.exit_reason, failure.detail);
  }
};

}  // namespace

Result<VcpuAction> handle_exit(const kvm::Exit& exit, const MmioBus& bus, ExitCounts& counts) {
  return std::visit(Handler{bus, counts}, exit);
}

}  // namespace vmm
