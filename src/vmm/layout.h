#pragma once

#include <cstdint>

// Guest-physical address map and interrupts of the machine. It is part of what a migration carries
// by name only: changing a value here changes the machine type.
namespace vmm::layout {

struct Range {
  std::uint64_t base;
  std::uint64_t size;
};

// Of everything in here and of the order of the virtio slots, as both hosts of a migration must
// agree.
inline constexpr std::uint32_t kMachineVersion = 1;
inline constexpr unsigned kMaxVcpus = 16;

inline constexpr Range kGicDistributor{0x0800'0000, 0x1'0000};
inline constexpr std::uint64_t kRedistributorSize = 0x2'0000;  // per vCPU
inline constexpr Range kGicRedistributors{0x080A'0000, kMaxVcpus* kRedistributorSize};
inline constexpr Range kUart{0x0900'0000, 0x1000};
inline constexpr Range kRtc{0x0901'0000, 0x1000};
inline constexpr Range kGpio{0x0903'0000, 0x1000};
// Virtio devices, in the order of their slots: a window and an interrupt each.
inline constexpr unsigned kVirtioSlots = 32;
inline constexpr std::uint64_t kVirtioWindow = 0x200;
inline constexpr Range kVirtio{0x0a00'0000, kVirtioSlots* kVirtioWindow};
inline constexpr std::uint64_t kRamBase = 0x4000'0000;

// Shared peripheral interrupts, numbered from 0 (INTID 32 + n).
inline constexpr unsigned kUartSpi = 1;
inline constexpr unsigned kRtcSpi = 2;
inline constexpr unsigned kGpioSpi = 7;
inline constexpr unsigned kVirtioSpi = 16;  // of slot 0
inline constexpr unsigned kSpiCount = 96;

// Private peripheral interrupts (INTID 16 + n) of the architected timer (the numbers KVM raises)
// and of the performance monitor.
inline constexpr unsigned kTimerSecurePpi = 13;
inline constexpr unsigned kTimerPhysicalPpi = 14;
inline constexpr unsigned kTimerVirtualPpi = 11;
inline constexpr unsigned kTimerHypervisorPpi = 10;
inline constexpr unsigned kPmuPpi = 7;

// GPIO line of the power key.
inline constexpr unsigned kPowerKeyLine = 3;

// Guest memory sizes: whole 2 MiB, so that huge pages fit.
inline constexpr std::uint64_t kMemoryUnit = 2ULL << 20;
inline constexpr std::uint64_t kMinMemory = 32ULL << 20;
inline constexpr std::uint64_t kMaxMemory = 1ULL << 40;

}  // namespace vmm::layout
