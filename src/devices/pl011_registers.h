#pragma once

#include <cstdint>

// Registers of the PrimeCell UART PL011 r1p5; sections are those of ARM DDI 0183G.
namespace vmm::pl011 {

// Offsets (section 3.2).
inline constexpr std::uint64_t kDr = 0x000;      // data, 3.3.1
inline constexpr std::uint64_t kRsrEcr = 0x004;  // receive status, error clear, 3.3.2
inline constexpr std::uint64_t kFr = 0x018;      // flags, 3.3.3
inline constexpr std::uint64_t kIlpr = 0x020;    // IrDA low-power counter, 3.3.4
inline constexpr std::uint64_t kIbrd = 0x024;    // integer baud rate divisor, 3.3.5
inline constexpr std::uint64_t kFbrd = 0x028;    // fractional baud rate divisor, 3.3.6
inline constexpr std::uint64_t kLcrH = 0x02c;    // line control, 3.3.7
inline constexpr std::uint64_t kCr = 0x030;      // control, 3.3.8
inline constexpr std::uint64_t kIfls = 0x034;    // interrupt FIFO levels, 3.3.9
inline constexpr std::uint64_t kImsc = 0x038;    // interrupt mask, 3.3.10
inline constexpr std::uint64_t kRis = 0x03c;     // raw interrupt status, 3.3.11
inline constexpr std::uint64_t kMis = 0x040;     // masked interrupt status, 3.3.12
inline constexpr std::uint64_t kIcr = 0x044;     // interrupt clear, 3.3.13
inline constexpr std::uint64_t kDmacr = 0x048;   // DMA control, 3.3.14

// DR (3.3.1) and, four bits lower, RSR (3.3.2): framing, parity and break errors never happen here.
inline constexpr std::uint32_t kDrOverrun = 1 << 11;
inline constexpr std::uint8_t kRsrOverrun = 1 << 3;

// FR (3.3.3).
inline constexpr std::uint16_t kFrCts = 1 << 0;
inline constexpr std::uint16_t kFrDsr = 1 << 1;
inline constexpr std::uint16_t kFrDcd = 1 << 2;
inline constexpr std::uint16_t kFrReceiveEmpty = 1 << 4;
inline constexpr std::uint16_t kFrReceiveFull = 1 << 6;
inline constexpr std::uint16_t kFrTransmitEmpty = 1 << 7;
inline constexpr std::uint16_t kFrRing = 1 << 8;

// LCR_H (3.3.7).
inline constexpr std::uint8_t kLcrFifoEnable = 1 << 4;

// CR (3.3.8).
inline constexpr std::uint16_t kCrEnable = 1 << 0;
inline constexpr std::uint16_t kCrLoopback = 1 << 7;
inline constexpr std::uint16_t kCrTransmitEnable = 1 << 8;
inline constexpr std::uint16_t kCrReceiveEnable = 1 << 9;
inline constexpr std::uint16_t kCrDtr = 1 << 10;
inline constexpr std::uint16_t kCrRts = 1 << 11;
inline constexpr std::uint16_t kCrOut1 = 1 << 12;
inline constexpr std::uint16_t kCrOut2 = 1 << 13;

// IMSC, RIS, MIS and ICR (3.3.10 to 3.3.13).
inline constexpr std::uint16_t kInterruptRing = 1 << 0;
inline constexpr std::uint16_t kInterruptCts = 1 << 1;
inline constexpr std::uint16_t kInterruptDcd = 1 << 2;
inline constexpr std::uint16_t kInterruptDsr = 1 << 3;
inline constexpr std::uint16_t kInterruptReceive = 1 << 4;
inline constexpr std::uint16_t kInterruptTransmit = 1 << 5;
inline constexpr std::uint16_t kInterruptReceiveTimeout = 1 << 6;
inline constexpr std::uint16_t kInterruptOverrun = 1 << 10;

// Bits that exist in the registers that can be written.
inline constexpr std::uint8_t kFbrdMask = 0x3f;
inline constexpr std::uint16_t kCrMask = 0xff87;
inline constexpr std::uint8_t kIflsMask = 0x3f;
inline constexpr std::uint16_t kInterruptMask = 0x7ff;
inline constexpr std::uint8_t kDmacrMask = 0x7;

// Peripheral identification (3.3.15): part 0x011, designer 0x41, revision 3 (r1p5).
inline constexpr std::uint8_t kPeripheralId[4] = {0x11, 0x10, 0x34, 0x00};

}  // namespace vmm::pl011
