#pragma once

#include <cstdint>

// Registers of the PrimeCell GPIO PL061; sections are those of ARM DDI 0190.
namespace vmm::pl061 {

// Offsets (section 3.2). DATA (3.3.1) takes the 256 words from 0: bits 9 to 2 of the address are a
// mask of the lines that are read or written.
inline constexpr std::uint64_t kDataEnd = 0x400;
inline constexpr std::uint64_t kDir = 0x400;    // direction, 3.3.2
inline constexpr std::uint64_t kIs = 0x404;     // interrupt sense, 3.3.3
inline constexpr std::uint64_t kIbe = 0x408;    // interrupt both edges, 3.3.4
inline constexpr std::uint64_t kIev = 0x40c;    // interrupt event, 3.3.5
inline constexpr std::uint64_t kIe = 0x410;     // interrupt mask, 3.3.6
inline constexpr std::uint64_t kRis = 0x414;    // raw interrupt status, 3.3.7
inline constexpr std::uint64_t kMis = 0x418;    // masked interrupt status, 3.3.8
inline constexpr std::uint64_t kIc = 0x41c;     // interrupt clear, 3.3.9
inline constexpr std::uint64_t kAfsel = 0x420;  // mode control select, 3.3.10

// Peripheral identification (3.3.11): part 0x061, designer 0x41.
inline constexpr std::uint8_t kPeripheralId[4] = {0x61, 0x10, 0x04, 0x00};

}  // namespace vmm::pl061
