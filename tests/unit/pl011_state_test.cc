#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "device_fakes.h"
#include "devices/pl011.h"
#include "devices/pl011_registers.h"

namespace vmm {
namespace {

using namespace pl011;

constexpr std::uint32_t kReceiverOn = kCrEnable | kCrTransmitEnable | kCrReceiveEnable;

struct Port {
  FakeLine line;
  FakeSink sink;
  Pl011 uart{line, sink};
};

void listen(Pl011& uart, bool fifos = true) {
  mmio_write(uart, kLcrH, fifos ? 0x70 : 0x60);
  mmio_write(uart, kCr, kReceiverOn);
  mmio_write(uart, kImsc, kInterruptReceive | kInterruptReceiveTimeout);
}

// Everything a guest can read, in an order in which no read changes a later one.
std::vector<std::uint64_t> visible(Pl011& uart) {
  std::vector<std::uint64_t> values;
  for (std::uint64_t offset = 4; offset < Pl011::kWindow; offset += 4) {
    values.push_back(mmio_read(uart, offset));
  }
  for (std::size_t i = 0; i <= Pl011::kFifoDepth; ++i) values.push_back(mmio_read(uart, kDr));
  return values;
}

// Saves `from`, restores into a new port and expects no difference in bytes, line or behaviour.
void expect_round_trip(Port& from, const std::string& name) {
  const auto state = saved(from.uart);
  Port to;
  to.line.high = !from.line.high;  // whatever the interrupt controller thought before
  ASSERT_TRUE(restored(to.uart, state)) << name;
  EXPECT_EQ(saved(to.uart), state) << name;
  EXPECT_EQ(to.line.high, from.line.high) << name;
  EXPECT_EQ(to.uart.receive(as_input("more")), from.uart.receive(as_input("more"))) << name;
  EXPECT_EQ(visible(to.uart), visible(from.uart)) << name;
  EXPECT_EQ(to.line.high, from.line.high) << name;
}

TEST(Pl011StateTest, SurvivesTheMoveInEachNamedState) {
  struct Case {
    const char* name;
    void (*prepare)(Pl011&);
  };
  const Case cases[] = {
      {"after reset", [](Pl011&) {}},
      {"listening", [](Pl011& uart) { listen(uart); }},
      {"listening without FIFO",
       [](Pl011& uart) {
         listen(uart, false);
         static_cast<void>(uart.receive(as_input("a")));
       }},
      {"bytes left from a FIFO that was turned off",
       [](Pl011& uart) {
         listen(uart);
         static_cast<void>(uart.receive(as_input("abc")));
         mmio_write(uart, kLcrH, 0x60);
       }},
      {"transmit interrupt pending",
       [](Pl011& uart) {
         mmio_write(uart, kImsc, kInterruptTransmit);
         mmio_write(uart, kDr, 'x');
       }},
      {"receiver on, not yet ready", [](Pl011& uart) { mmio_write(uart, kCr, kReceiverOn); }},
      {"polling",
       [](Pl011& uart) {
         mmio_write(uart, kCr, kReceiverOn);
         for (int i = 0; i < 100; ++i) static_cast<void>(mmio_read(uart, kFr));
       }},
      {"overrun",
       [](Pl011& uart) {
         listen(uart);
         mmio_write(uart, kCr, kReceiverOn | kCrLoopback);
         for (int i = 0; i < 40; ++i) mmio_write(uart, kDr, 'x');
       }},
      {"all registers full",
       [](Pl011& uart) {
         for (std::uint64_t offset = 0; offset < 0x100; offset += 4) {
           mmio_write(uart, offset, 0xffffffff);
         }
       }},
  };
  for (const auto& [name, prepare] : cases) {
    Port port;
    prepare(port.uart);
    expect_round_trip(port, name);
  }
}

TEST(Pl011StateTest, SurvivesTheMoveAtEachFifoLevel) {
  for (std::size_t level = 0; level <= Pl011::kFifoDepth; ++level) {
    Port port;
    listen(port.uart);
    const std::string text = std::string("\xff\x80\x01", 3) + "abcdefghijklmnopqrstuvwxyz012";
    ASSERT_EQ(port.uart.receive(as_input(text).first(level)), level);
    expect_round_trip(port, "level " + std::to_string(level));
  }
}

TEST(Pl011StateTest, SurvivesTheMoveAfterAnyAccesses) {
  std::mt19937_64 random(11);
  for (int round = 0; round < 300; ++round) {
    Port port;
    for (std::uint64_t step = random() % 60; step-- > 0;) {
      const std::uint64_t offset = random() % 0x14 * 4;
      if (random() % 4 == 0) {
        static_cast<void>(port.uart.receive(as_input("0123456789")));
      } else if (random() % 2 == 0) {
        mmio_write(port.uart, offset, random());
      } else {
        static_cast<void>(mmio_read(port.uart, offset));
      }
    }
    expect_round_trip(port, "round " + std::to_string(round));
    if (::testing::Test::HasFailure()) break;
  }
}

TEST(Pl011StateTest, RefusesHostileBytesAndKeepsItsState) {
  Port source;
  listen(source.uart);
  ASSERT_EQ(source.uart.receive(as_input("abcdef")), 6u);
  const auto good = saved(source.uart);
  ASSERT_EQ(good.size(), 25u + 6u);

  Port port;
  listen(port.uart);
  ASSERT_EQ(port.uart.receive(as_input("kept")), 4u);
  const bool level = port.line.high;
  expect_hostile_bytes_refused(port.uart, good);

  expect_field_refused<std::uint16_t>(port.uart, good, 4, 1 << 3);   // control, reserved bit
  expect_field_refused<std::uint16_t>(port.uart, good, 6, 1 << 11);  // interrupt status
  expect_field_refused<std::uint16_t>(port.uart, good, 6, 1 << 6);   // timeout is never latched
  expect_field_refused<std::uint16_t>(port.uart, good, 8, 0x8000);   // interrupt mask
  expect_field_refused<std::uint8_t>(port.uart, good, 12, 0x40);     // baud rate fraction
  expect_field_refused<std::uint8_t>(port.uart, good, 14, 0x40);     // FIFO levels
  expect_field_refused<std::uint8_t>(port.uart, good, 16, 0x08);     // DMA control
  expect_field_refused<std::uint8_t>(port.uart, good, 17, 0x10);     // receive status
  expect_field_refused<std::uint8_t>(port.uart, good, 18, 2);        // overrun
  expect_field_refused<std::uint8_t>(port.uart, good, 19, 0xff);     // awaits input
  expect_field_refused<std::uint8_t>(port.uart, good, 20, Pl011::kPollingReads + 1);
  for (const std::uint32_t size : {7u, 32u, 33u, 256u, 0x80000000u, 0xffffffffu}) {
    expect_field_refused<std::uint32_t>(port.uart, good, 21, size);  // bytes in the FIFO
  }
  EXPECT_EQ(port.line.high, level);
}

TEST(Pl011StateTest, RefusesAFifoLargerThanItsOwnThoughTheBytesAreThere) {
  Port port;
  auto bytes = saved(port.uart);
  const std::uint32_t size = Pl011::kFifoDepth + 1;
  std::memcpy(bytes.data() + 21, &size, sizeof size);
  bytes.resize(25 + size);
  EXPECT_FALSE(restored(port.uart, bytes));
}

TEST(Pl011StateTest, TakesNoInputWithTheReceiverOffWhateverTheStateSays) {
  Port port;
  auto bytes = saved(port.uart);
  bytes[19] = std::byte{1};  // awaits input
  ASSERT_TRUE(restored(port.uart, bytes));
  EXPECT_EQ(port.uart.receive(as_input("a")), 0u);
}

TEST(Pl011StateTest, SaysWhichFieldCannotBe) {
  Port port;
  auto bytes = saved(port.uart);
  bytes[16] = std::byte{0xf0};
  ByteReader reader(bytes);
  const auto result = port.uart.restore(reader);
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().message(), "state of pl011 has DMA control = 0xf0, which cannot be");
}

TEST(Pl011StateTest, AnyBytesAreEitherRefusedOrKept) {
  std::mt19937_64 random(12);
  Port port;
  listen(port.uart);
  ASSERT_EQ(port.uart.receive(as_input("abcdefgh")), 8u);
  const auto good = saved(port.uart);
  for (int round = 0; round < 20000; ++round) {
    auto bytes = good;
    for (std::uint64_t flips = 1 + random() % 3; flips-- > 0;) {
      bytes[random() % bytes.size()] = static_cast<std::byte>(random() & 0xff);
    }
    Port target;
    if (!restored(target.uart, bytes)) continue;
    EXPECT_EQ(saved(target.uart), bytes);
    static_cast<void>(visible(target.uart));
    mmio_write(target.uart, kDr, 'x');
    static_cast<void>(target.uart.receive(as_input("0123456789012345678901234567890123456789")));
  }
}

}  // namespace
}  // namespace vmm
