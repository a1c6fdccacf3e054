#include "devices/pl011.h"

#include <gtest/gtest.h>

#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "device_fakes.h"
#include "devices/pl011_registers.h"

namespace vmm {
namespace {

using namespace pl011;

constexpr std::uint16_t kReceiverOn = kCrEnable | kCrTransmitEnable | kCrReceiveEnable;
constexpr std::uint16_t kReceiveInterrupts = kInterruptReceive | kInterruptReceiveTimeout;

class Pl011Test : public ::testing::Test {
 protected:
  Pl011Test() {
    uart_.set_on_rx_space([this] { ++rx_space_calls_; });
  }

  std::uint32_t read(std::uint64_t offset) {
    return static_cast<std::uint32_t>(mmio_read(uart_, offset));
  }
  void write(std::uint64_t offset, std::uint32_t value) { mmio_write(uart_, offset, value); }
  std::size_t receive(std::string_view text) { return uart_.receive(as_input(text)); }

  // The accesses by which Linux's driver opens the port, FIFOs on.
  void open_port() {
    write(kIcr, kInterruptMask & ~kInterruptTransmit);
    write(kImsc, kReceiveInterrupts);
    write(kIfls, 0x12);
    write(kCr, kReceiverOn);
    write(kIcr, kReceiveInterrupts);
    while ((read(kFr) & kFrReceiveEmpty) == 0) static_cast<void>(read(kDr));
    write(kImsc, kReceiveInterrupts);
    write(kLcrH, 0x70);
  }
  // What its interrupt handler reads, until the line is low.
  std::string handle_interrupts() {
    std::string text;
    while (line_.high) {
      while ((read(kFr) & kFrReceiveEmpty) == 0) text += static_cast<char>(read(kDr));
    }
    return text;
  }

  FakeLine line_;
  FakeSink sink_;
  Pl011 uart_{line_, sink_};
  int rx_space_calls_ = 0;
};

TEST_F(Pl011Test, HasTheResetValuesOfTheManual) {
  struct Register {
    std::uint64_t offset;
    std::uint32_t value;
  };
  const Register registers[] = {
      {0x000, 0},      // DR
      {0x004, 0},      // RSR
      {0x018, 0x97},   // FR: CTS, DSR, DCD, RXFE, TXFE
      {0x020, 0},      // ILPR
      {0x024, 0},      // IBRD
      {0x028, 0},      // FBRD
      {0x02c, 0},      // LCR_H
      {0x030, 0x300},  // CR
      {0x034, 0x12},   // IFLS
      {0x038, 0},      // IMSC
      {0x03c, 0},      // RIS
      {0x040, 0},      // MIS
      {0x044, 0},      // ICR is write-only
      {0x048, 0},      // DMACR
      {0xfe0, 0x11},  {0xfe4, 0x10}, {0xfe8, 0x34}, {0xfec, 0x00},
      {0xff0, 0x0d},  {0xff4, 0xf0}, {0xff8, 0x05}, {0xffc, 0xb1},
  };
  for (const auto& [offset, value] : registers) EXPECT_EQ(read(offset), value) << offset;
  EXPECT_FALSE(line_.high);
}

TEST_F(Pl011Test, RegistersKeepTheBitsThatExist) {
  struct Register {
    std::uint64_t offset;
    std::uint32_t kept;
  };
  const Register registers[] = {
      {kIlpr, 0xff},  {kIbrd, 0xffff}, {kFbrd, 0x3f}, {kLcrH, 0xff}, {kCr, 0xff87}, {kIfls, 0x3f},
      {kImsc, 0x7ff}, {kDmacr, 0x07},  {kRsrEcr, 0},  {kIcr, 0},     {0x008, 0},    {0x01c, 0},
      {0x04c, 0},     {0x080, 0},      {0xfdc, 0},    {0xfe0, 0x11}, {0xffc, 0xb1},
  };
  for (const auto& [offset, kept] : registers) {
    write(offset, 0xffffffff);
    EXPECT_EQ(read(offset), kept) << offset;
  }
}

TEST_F(Pl011Test, ReadOnlyRegistersStayAsTheyAre) {
  for (const std::uint64_t offset : {kFr, kRis, kMis}) {
    const auto before = read(offset);
    write(offset, ~before);
    EXPECT_EQ(read(offset), before) << offset;
  }
}

TEST_F(Pl011Test, OddAccessesReadZeroAndWriteNothing) {
  const auto before = saved(uart_);
  for (std::uint64_t offset = 0; offset < Pl011::kWindow; ++offset) {
    for (const std::size_t size : {1u, 2u, 4u, 8u}) {
      if (offset % 4 == 0 && size != 8) continue;
      EXPECT_EQ(mmio_read(uart_, offset, size), 0u) << offset << " size " << size;
      mmio_write(uart_, offset, ~0ull, size);
    }
  }
  EXPECT_EQ(saved(uart_), before);
  EXPECT_EQ(sink_.text, "");
}

TEST_F(Pl011Test, NarrowAccessesReachTheRegister) {
  mmio_write(uart_, kDr, 'a', 1);
  mmio_write(uart_, kDr, 'b', 2);
  mmio_write(uart_, kDr, 'c', 4);
  EXPECT_EQ(sink_.text, "abc");
  EXPECT_EQ(mmio_read(uart_, kCr, 2), 0x300u);
  EXPECT_EQ(mmio_read(uart_, kCr, 1), 0u);
}

TEST_F(Pl011Test, SendsBytesEvenBeforeTheGuestEnablesThePort) {
  write(kCr, 0);
  write(kDr, 'x');
  EXPECT_EQ(sink_.text, "x");
  EXPECT_NE(read(kFr) & kFrTransmitEmpty, 0u);
}

TEST_F(Pl011Test, SendingRaisesTheTransmitInterruptUntilCleared) {
  write(kImsc, kInterruptTransmit);
  EXPECT_FALSE(line_.high) << "nothing was sent yet";
  write(kDr, 'x');
  EXPECT_TRUE(line_.high);
  EXPECT_EQ(read(kMis), kInterruptTransmit);
  write(kIcr, kInterruptTransmit);
  EXPECT_FALSE(line_.high);
  EXPECT_EQ(read(kRis), 0u);
}

TEST_F(Pl011Test, MaskedInterruptsShowInRisAlone) {
  write(kDr, 'x');
  EXPECT_EQ(read(kRis), kInterruptTransmit);
  EXPECT_EQ(read(kMis), 0u);
  EXPECT_FALSE(line_.high);
  write(kImsc, kInterruptTransmit);
  EXPECT_TRUE(line_.high);
  write(kImsc, 0);
  EXPECT_FALSE(line_.high);
}

TEST_F(Pl011Test, DrivesTheLineOnlyWhenItsLevelChanges) {
  write(kImsc, kInterruptTransmit);
  for (int i = 0; i < 10; ++i) write(kDr, 'x');
  EXPECT_EQ(line_.calls, 1);
}

TEST_F(Pl011Test, TakesNoInputBeforeTheGuestListens) {
  EXPECT_EQ(receive("a"), 0u) << "after reset";
  write(kImsc, kReceiveInterrupts);
  EXPECT_EQ(receive("a"), 0u) << "receiver off";
  write(kCr, kReceiverOn);
  EXPECT_EQ(receive("a"), 0u) << "receiver on, but Linux will empty the FIFO";
  EXPECT_EQ(rx_space_calls_, 0);
  write(kImsc, kReceiveInterrupts);
  EXPECT_EQ(rx_space_calls_, 1);
  EXPECT_EQ(receive("a"), 1u);
}

TEST_F(Pl011Test, TakesNoInputWhileTheGuestDoesNotListenAnyMore) {
  open_port();
  write(kImsc, 0);
  EXPECT_EQ(receive("a"), 0u) << "throttled";
  write(kImsc, kReceiveInterrupts);
  EXPECT_EQ(receive("a"), 1u);
  write(kCr, kCrEnable | kCrTransmitEnable);
  EXPECT_EQ(receive("b"), 0u) << "port closed";
  write(kCr, kReceiverOn);
  EXPECT_EQ(receive("b"), 0u) << "port opened, but not ready";
}

TEST_F(Pl011Test, LinuxGetsEveryByteThatWaitedForThePortToOpen) {
  std::string typed(100, '?');
  for (std::size_t i = 0; i < typed.size(); ++i) typed[i] = static_cast<char>('0' + i % 64);
  // The console offers what is left whenever it is told to; this one does at each access.
  std::string_view left = typed;
  uart_.set_on_rx_space([&] { left.remove_prefix(receive(left)); });
  left.remove_prefix(receive(left));
  EXPECT_EQ(left.size(), typed.size());
  open_port();
  EXPECT_EQ(handle_interrupts(), typed);
  EXPECT_TRUE(left.empty());
}

TEST_F(Pl011Test, PollingGuestGetsInputWithoutInterrupts) {
  write(kCr, kReceiverOn);
  EXPECT_EQ(receive("a"), 0u);
  int polls = 0;
  while (rx_space_calls_ == 0 && polls < 1000) {
    static_cast<void>(read(kFr));
    ++polls;
  }
  EXPECT_EQ(polls, Pl011::kPollingReads);
  EXPECT_EQ(receive("a"), 1u);
  EXPECT_EQ(read(kFr) & kFrReceiveEmpty, 0u);
  EXPECT_EQ(read(kDr), 'a');
}

TEST_F(Pl011Test, SendingIsNotTakenForPolling) {
  write(kCr, kReceiverOn);
  for (int i = 0; i < 100; ++i) {
    static_cast<void>(read(kFr));
    write(kDr, 'x');
    static_cast<void>(read(kFr));
  }
  EXPECT_EQ(receive("a"), 0u);
}

TEST_F(Pl011Test, LooksAtFlagsBeforeTheReceiverIsOnAreNotTakenForPolling) {
  for (int i = 0; i < 100; ++i) static_cast<void>(read(kFr));
  write(kCr, kReceiverOn);
  EXPECT_EQ(receive("a"), 0u);
}

TEST_F(Pl011Test, FifoTakes32BytesAndGivesThemInOrder) {
  open_port();
  const std::string text = "0123456789abcdefghijklmnopqrstuvwxyz";
  EXPECT_EQ(receive(text), Pl011::kFifoDepth);
  EXPECT_NE(read(kFr) & kFrReceiveFull, 0u);
  EXPECT_EQ(receive(text), 0u);
  for (std::size_t i = 0; i < Pl011::kFifoDepth; ++i) {
    EXPECT_EQ(read(kFr) & kFrReceiveEmpty, 0u);
    EXPECT_EQ(read(kDr), static_cast<unsigned char>(text[i]));
    EXPECT_EQ(read(kFr) & kFrReceiveFull, 0u);
  }
  EXPECT_NE(read(kFr) & kFrReceiveEmpty, 0u);
  EXPECT_EQ(read(kDr), 0u) << "empty";
  EXPECT_EQ(read(kRis) & kInterruptOverrun, 0u);
}

TEST_F(Pl011Test, HoldsOneByteWhileFifosAreDisabled) {
  open_port();
  write(kLcrH, 0x60);
  EXPECT_EQ(receive("ab"), 1u);
  EXPECT_NE(read(kFr) & kFrReceiveFull, 0u);
  EXPECT_EQ(read(kMis), kReceiveInterrupts);
  EXPECT_EQ(rx_space_calls_, 0);
  EXPECT_EQ(read(kDr), 'a');
  EXPECT_EQ(rx_space_calls_, 1);
  EXPECT_EQ(read(kMis), 0u);
  EXPECT_EQ(receive("b"), 1u);
}

TEST_F(Pl011Test, KeepsReceivedBytesWhenFifosAreSwitched) {
  open_port();
  ASSERT_EQ(receive("abc"), 3u);
  write(kLcrH, 0x60);
  EXPECT_NE(read(kFr) & kFrReceiveFull, 0u);
  EXPECT_EQ(receive("d"), 0u);
  EXPECT_EQ(handle_interrupts(), "abc");
  ASSERT_EQ(receive("e"), 1u);
  write(kLcrH, 0x70);
  EXPECT_EQ(handle_interrupts(), "e");
}

TEST_F(Pl011Test, ReceiveInterruptComesAtTheTriggerLevel) {
  struct Case {
    std::uint32_t select;  // RXIFLSEL
    std::size_t level;
  };
  for (const auto& [select, level] : {Case{0, 4}, {1, 8}, {2, 16}, {3, 24}, {4, 28}, {7, 28}}) {
    uart_.reset();
    open_port();
    write(kIfls, select << 3);
    for (std::size_t i = 1; i <= Pl011::kFifoDepth; ++i) {
      ASSERT_EQ(receive("x"), 1u);
      EXPECT_EQ((read(kRis) & kInterruptReceive) != 0, i >= level) << select << " at " << i;
    }
    for (std::size_t i = Pl011::kFifoDepth; i-- > 0;) {
      static_cast<void>(read(kDr));
      EXPECT_EQ((read(kRis) & kInterruptReceive) != 0, i >= level) << select << " at " << i;
    }
  }
}

TEST_F(Pl011Test, ReceiveInterruptIsClearedByHandUntilTheLevelIsReachedAgain) {
  open_port();
  ASSERT_EQ(receive(std::string(16, 'x')), 16u);
  EXPECT_NE(read(kRis) & kInterruptReceive, 0u);
  write(kIcr, kInterruptReceive);
  EXPECT_EQ(read(kRis) & kInterruptReceive, 0u);
  static_cast<void>(read(kDr));
  ASSERT_EQ(receive("x"), 1u);
  EXPECT_NE(read(kRis) & kInterruptReceive, 0u);
}

TEST_F(Pl011Test, TimeoutInterruptLastsAsLongAsBytesAreThere) {
  open_port();
  ASSERT_EQ(receive("ab"), 2u);
  EXPECT_EQ(read(kMis), kInterruptReceiveTimeout);
  EXPECT_TRUE(line_.high);
  write(kIcr, kInterruptReceiveTimeout);
  EXPECT_TRUE(line_.high) << "else a guest that clears first and reads a part would hang";
  static_cast<void>(read(kDr));
  EXPECT_TRUE(line_.high);
  static_cast<void>(read(kDr));
  EXPECT_FALSE(line_.high);
}

TEST_F(Pl011Test, AsksForMoreInputOnceHalfOfTheFifoIsFree) {
  open_port();
  ASSERT_EQ(receive(std::string(40, 'x')), 32u);
  for (int i = 0; i < 15; ++i) static_cast<void>(read(kDr));
  EXPECT_EQ(rx_space_calls_, 0);
  static_cast<void>(read(kDr));
  EXPECT_EQ(rx_space_calls_, 1);
  while ((read(kFr) & kFrReceiveEmpty) == 0) static_cast<void>(read(kDr));
  EXPECT_EQ(rx_space_calls_, 1) << "once is enough";
}

TEST_F(Pl011Test, DoesNotAskForInputThatNobodyHas) {
  open_port();
  ASSERT_EQ(receive("abc"), 3u);
  EXPECT_EQ(handle_interrupts(), "abc");
  EXPECT_EQ(rx_space_calls_, 0);
}

TEST_F(Pl011Test, WorksWithoutSomebodyToAskForInput) {
  uart_.set_on_rx_space(nullptr);
  open_port();
  ASSERT_EQ(receive(std::string(40, 'x')), 32u);
  EXPECT_EQ(handle_interrupts(), std::string(32, 'x'));
}

TEST_F(Pl011Test, MayBeCalledBackFromTheRequestForInput) {
  uart_.set_on_rx_space([this] { EXPECT_EQ(receive("!"), 1u); });
  open_port();
  ASSERT_EQ(receive(std::string(33, 'x')), 32u);
  EXPECT_EQ(handle_interrupts(), std::string(32, 'x') + "!");
}

TEST_F(Pl011Test, LoopbackReturnsWhatIsSent) {
  open_port();
  write(kCr, kReceiverOn | kCrLoopback);
  write(kDr, 'l');
  EXPECT_EQ(read(kDr), 'l');
  EXPECT_EQ(sink_.text, "l");
}

TEST_F(Pl011Test, OverrunInLoopbackIsReportedOnce) {
  open_port();
  write(kCr, kReceiverOn | kCrLoopback);
  for (int i = 0; i < 33; ++i) write(kDr, 'x');
  EXPECT_NE(read(kRis) & kInterruptOverrun, 0u);
  EXPECT_EQ(read(kRsrEcr), kRsrOverrun);
  EXPECT_EQ(read(kDr), 'x' | kDrOverrun);
  EXPECT_EQ(read(kDr), std::uint32_t{'x'});
  write(kRsrEcr, 0);
  EXPECT_EQ(read(kRsrEcr), 0u);
  write(kIcr, kInterruptOverrun);
  EXPECT_EQ(read(kRis) & kInterruptOverrun, 0u);
}

TEST_F(Pl011Test, ModemInputsFollowTheOutputsInLoopback) {
  struct Case {
    std::uint16_t output;
    std::uint16_t flag;
    std::uint16_t interrupt;
  };
  const Case cases[] = {{kCrRts, kFrCts, kInterruptCts},
                        {kCrDtr, kFrDsr, kInterruptDsr},
                        {kCrOut1, kFrDcd, kInterruptDcd},
                        {kCrOut2, kFrRing, kInterruptRing}};
  constexpr std::uint32_t kInputs = kFrCts | kFrDsr | kFrDcd | kFrRing;
  write(kCr, kCrLoopback);
  write(kIcr, kInterruptMask);
  EXPECT_EQ(read(kFr) & kInputs, 0u);
  for (const auto& [output, flag, interrupt] : cases) {
    for (const std::uint32_t control : {kCrLoopback | std::uint32_t{output}, +kCrLoopback + 0u}) {
      write(kCr, control);
      EXPECT_EQ(read(kFr) & kInputs, (control & output) != 0 ? flag : 0u);
      EXPECT_EQ(read(kRis), interrupt);
      write(kIcr, interrupt);
    }
  }
}

TEST_F(Pl011Test, ResetGoesBackToTheFirstState) {
  const auto fresh = saved(uart_);
  open_port();
  write(kImsc, kInterruptMask);
  write(kDr, 'x');
  ASSERT_EQ(receive("abc"), 3u);
  EXPECT_TRUE(line_.high);
  uart_.reset();
  EXPECT_FALSE(line_.high);
  EXPECT_EQ(saved(uart_), fresh);
}

TEST(Pl011ThreadTest, PassesEveryByteWhileManyThreadsUseIt) {
  constexpr std::size_t kBytes = 3000;
  FakeLine line;
  FakeSink sink;
  Pl011 uart(line, sink);
  std::atomic<int> space = 0;
  uart.set_on_rx_space([&] { ++space; });
  mmio_write(uart, kLcrH, 0x70);
  mmio_write(uart, kCr, kReceiverOn);
  mmio_write(uart, kImsc, kReceiveInterrupts);

  std::string typed;
  for (std::size_t i = 0; i < kBytes; ++i) typed += static_cast<char>('0' + i % 64);
  std::string got;
  std::thread console([&] {
    std::string_view left = typed;
    while (!left.empty()) {
      left.remove_prefix(uart.receive(as_input(left)));
      std::this_thread::yield();
    }
  });
  std::thread reader([&] {
    while (got.size() < kBytes) {
      if ((mmio_read(uart, kFr) & kFrReceiveEmpty) == 0) {
        got += static_cast<char>(mmio_read(uart, kDr));
      } else {
        std::this_thread::yield();
      }
    }
  });
  std::thread writer([&] {
    for (std::size_t i = 0; i < kBytes; ++i) mmio_write(uart, kDr, 'w');
  });
  std::thread saver([&] {
    for (int i = 0; i < 100; ++i) static_cast<void>(saved(uart));
  });
  for (std::thread* thread : {&console, &reader, &writer, &saver}) thread->join();
  EXPECT_EQ(got, typed);
  EXPECT_EQ(sink.text, std::string(kBytes, 'w'));
}

}  // namespace
}  // namespace vmm
