#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string_view>

#include "base/thread_annotations.h"
#include "devices/device.h"
#include "devices/interrupt_line.h"
#include "devices/mmio.h"
#include "devices/serial_sink.h"

namespace vmm {

// PrimeCell UART PL011 r1p5 (ARM DDI 0183): the guest's serial console.
//
// The line is infinitely fast: a byte written is sent at once, so the transmit FIFO is always empty
// (and bytes are sent whether or not the guest has enabled the transmitter, as no firmware has done
// it for an early console). On the way in nothing is lost: receive() takes bytes only while the
// guest listens, and on_rx_space tells when it is worth offering more.
class Pl011 final : public Device, public MmioDevice {
 public:
  static constexpr std::uint64_t kWindow = kPrimeCellWindow;
  // Depth of the receive FIFO in revision r1p5 (16 before).
  static constexpr std::size_t kFifoDepth = 32;
  // So many reads of FR in a row make a guest without receive interrupts one that polls for input.
  // (A driver that sends looks at FR once or twice a byte.)
  static constexpr std::uint8_t kPollingReads = 16;

  // Both must outlive the device.
  Pl011(InterruptLine& interrupt, SerialSink& sink);

  // Sets what is called, with no lock held, once bytes that receive() refused may be offered again.
  // It is called from a vCPU thread, must not block, and may come without need. Threads: call this
  // before vCPUs run.
  void set_on_rx_space(std::function<void()> on_rx_space);

  // Input for the guest: puts as many bytes as fit in the FIFO and returns how many. 0 while the
  // guest does not listen: receiver off, or its interrupts masked and the guest not polling. (Linux
  // empties the FIFO when it opens the port; bytes that came before would be lost.) Threads: any.
  [[nodiscard]] std::size_t receive(std::span<const std::byte> bytes) VMM_EXCLUDES(mutex_);

  [[nodiscard]] std::string_view name() const override { return "pl011"; }
  void reset() override VMM_EXCLUDES(mutex_);
  void save(ByteWriter& writer) const override VMM_EXCLUDES(mutex_);
  [[nodiscard]] Result<> restore(ByteReader& reader) override VMM_EXCLUDES(mutex_);

  void mmio_read(std::uint64_t offset, std::span<std::byte> data) override VMM_EXCLUDES(mutex_);
  void mmio_write(std::uint64_t offset, std::span<const std::byte> data) override
      VMM_EXCLUDES(mutex_);

 private:
  // Register values, as read, at reset (section 3.2); only defined bits are ever set.
  struct State {
    std::uint16_t control = 0x300;
    // RIS without the receive timeout, which follows from the FIFO.
    std::uint16_t latched_interrupts = 0;
    std::uint16_t interrupt_mask = 0;
    std::uint16_t baud_integer = 0;
    std::uint8_t baud_fraction = 0;
    std::uint8_t line_control = 0;
    std::uint8_t fifo_levels = 0x12;
    std::uint8_t irda_divisor = 0;
    std::uint8_t dma_control = 0;
    std::uint8_t receive_status = 0;
    // An overrun that the next read of DR will report.
    bool overrun = false;
    // A receive interrupt was unmasked while the receiver was on, and both still hold.
    bool awaits_input = false;
    // Reads of FR that found no input since the receiver was turned on or DR was written, up to
    // kPollingReads.
    std::uint8_t status_polls = 0;
    // The receive FIFO: bytes in the order of arrival, the oldest at index 0.
    std::uint8_t fifo_size = 0;
    std::array<std::uint8_t, kFifoDepth> fifo{};
  };

  [[nodiscard]] static Result<State> decode(ByteReader& reader);

  // Receive bytes that fit: all of the FIFO, or 1 while FIFOs are disabled.
  [[nodiscard]] std::size_t fifo_depth() const VMM_REQUIRES(mutex_);
  [[nodiscard]] std::size_t receive_trigger() const VMM_REQUIRES(mutex_);
  [[nodiscard]] bool receiver_on() const VMM_REQUIRES(mutex_);
  [[nodiscard]] bool listening() const VMM_REQUIRES(mutex_);
  [[nodiscard]] std::uint16_t raw_interrupts() const VMM_REQUIRES(mutex_);
  [[nodiscard]] std::uint32_t read_register(std::uint64_t offset) VMM_REQUIRES(mutex_);
  [[nodiscard]] std::uint32_t read_data() VMM_REQUIRES(mutex_);
  [[nodiscard]] std::uint32_t read_flags() VMM_REQUIRES(mutex_);
  void write_register(std::uint64_t offset, std::uint32_t value) VMM_REQUIRES(mutex_);
  void write_data(std::uint8_t value) VMM_REQUIRES(mutex_);
  void write_control(std::uint16_t value) VMM_REQUIRES(mutex_);
  void push(std::uint8_t value) VMM_REQUIRES(mutex_);
  void write_mask(std::uint16_t value) VMM_REQUIRES(mutex_);
  void update_interrupt() VMM_REQUIRES(mutex_);
  // True when the console should be told that it may offer refused bytes again.
  [[nodiscard]] bool take_rx_space_event() VMM_REQUIRES(mutex_);

  InterruptLine& interrupt_;
  SerialSink& sink_;
  std::function<void()> on_rx_space_;
  mutable Mutex mutex_;
  State state_ VMM_GUARDED_BY(mutex_);
  bool level_ VMM_GUARDED_BY(mutex_) = false;
  // receive() has refused bytes since on_rx_space was called last.
  bool input_refused_ VMM_GUARDED_BY(mutex_) = false;
};

}  // namespace vmm
