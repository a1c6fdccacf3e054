#pragma once

#include <cstdint>

// Registers of the PrimeCell Real Time Clock PL031; sections are those of ARM DDI 0224.
namespace vmm::pl031 {

// Offsets (section 3.2).
inline constexpr std::uint64_t kDr = 0x000;    // data: the counter, 3.3.1
inline constexpr std::uint64_t kMr = 0x004;    // match, 3.3.2
inline constexpr std::uint64_t kLr = 0x008;    // load, 3.3.3
inline constexpr std::uint64_t kCr = 0x00c;    // control, 3.3.4
inline constexpr std::uint64_t kImsc = 0x010;  // interrupt mask, 3.3.5
inline constexpr std::uint64_t kRis = 0x014;   // raw interrupt status, 3.3.6
inline constexpr std::uint64_t kMis = 0x018;   // masked interrupt status, 3.3.7
inline constexpr std::uint64_t kIcr = 0x01c;   // interrupt clear, 3.3.8

// CR: the counter runs. Once set it stays until reset (3.3.4); it is set here from the start, as no
// firmware does it.
inline constexpr std::uint32_t kCrStart = 1;
// The only bit of IMSC, RIS, MIS and ICR.
inline constexpr std::uint32_t kInterrupt = 1;

// Peripheral identification (3.3.9): part 0x031, designer 0x41.
inline constexpr std::uint8_t kPeripheralId[4] = {0x31, 0x10, 0x04, 0x00};

}  // namespace vmm::pl031
