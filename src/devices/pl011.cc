#include "devices/pl011.h"

#include <algorithm>
#include <utility>

#include "devices/device_state.h"
#include "devices/pl011_registers.h"

namespace vmm {
namespace {

using namespace pl011;  // NOLINT(google-build-using-namespace)

constexpr std::uint16_t kReceiveInterrupts = kInterruptReceive | kInterruptReceiveTimeout;
constexpr std::uint16_t kReceiverOn = kCrEnable | kCrReceiveEnable;

// Modem inputs as FR shows them, and the interrupt that a change of each raises.
constexpr std::pair<std::uint16_t, std::uint16_t> kModemInterrupts[] = {
    {kFrRing, kInterruptRing},
    {kFrCts, kInterruptCts},
    {kFrDcd, kInterruptDcd},
    {kFrDsr, kInterruptDsr},
};

// Modem inputs: a cable with somebody at its other end, or the outputs in loopback (3.3.8).
std::uint16_t modem_flags(std::uint16_t control) {
  if ((control & kCrLoopback) == 0) return kFrCts | kFrDsr | kFrDcd;
  std::uint16_t flags = 0;
  if ((control & kCrRts) != 0) flags |= kFrCts;
  if ((control & kCrDtr) != 0) flags |= kFrDsr;
  if ((control & kCrOut1) != 0) flags |= kFrDcd;
  if ((control & kCrOut2) != 0) flags |= kFrRing;
  return flags;
}

}  // namespace

Pl011::Pl011(InterruptLine& interrupt, SerialSink& sink) : interrupt_(interrupt), sink_(sink) {}

void Pl011::set_on_rx_space(std::function<void()> on_rx_space) {
  on_rx_space_ = std::move(on_rx_space);
}

std::size_t Pl011::fifo_depth() const {
  return (state_.line_control & kLcrFifoEnable) != 0 ? kFifoDepth : 1;
}

std::size_t Pl011::receive_trigger() const {
  if (fifo_depth() == 1) return 1;
  // RXIFLSEL (3.3.9): 1/8, 1/4, 1/2, 3/4 and 7/8 full; reserved values act like the last.
  constexpr std::size_t kLevels[] = {4, 8, 16, 24, 28};
  const auto select = static_cast<std::size_t>(state_.fifo_levels >> 3);
  return kLevels[std::min(select, std::size(kLevels) - 1)];
}

bool Pl011::receiver_on() const {
  return (state_.control & kReceiverOn) == kReceiverOn;
}

bool Pl011::listening() const {
  return receiver_on() && (state_.awaits_input || state_.status_polls == kPollingReads);
}

std::uint16_t Pl011::raw_interrupts() const {
  // The pause after which bytes below the trigger level are reported takes no time here, so that
  // the timeout interrupt is there for as long as bytes are, and back as soon as it is cleared
  // (2.8.4).
  const std::uint16_t timeout = state_.fifo_size != 0 ? kInterruptReceiveTimeout : 0;
  return state_.latched_interrupts | timeout;
}

std::size_t Pl011::receive(std::span<const std::byte> bytes) {
  const MutexLock lock(mutex_);
  std::size_t taken = 0;
  if (listening()) {
    while (taken < bytes.size() && state_.fifo_size < fifo_depth()) {
      push(std::to_integer<std::uint8_t>(bytes[taken]));
      ++taken;
    }
  }
  input_refused_ = taken < bytes.size();
  update_interrupt();
  return taken;
}

void Pl011::push(std::uint8_t value) {
  if (state_.fifo_size >= fifo_depth()) {
    state_.overrun = true;
    state_.receive_status |= kRsrOverrun;
    state_.latched_interrupts |= kInterruptOverrun;
    return;
  }
  state_.fifo[state_.fifo_size++] = value;
  if (state_.fifo_size == receive_trigger()) state_.latched_interrupts |= kInterruptReceive;
}

std::uint32_t Pl011::read_data() {
  std::uint32_t value = 0;
  if (state_.fifo_size != 0) {
    value = state_.fifo[0];
    std::copy(state_.fifo.begin() + 1, state_.fifo.begin() + state_.fifo_size, state_.fifo.begin());
    state_.fifo[--state_.fifo_size] = 0;
  }
  if (std::exchange(state_.overrun, false)) value |= kDrOverrun;

  if (state_.fifo_size < receive_trigger()) {
    state_.latched_interrupts &= static_cast<std::uint16_t>(~kInterruptReceive);
  }
  return value;
}

std::uint32_t Pl011::read_flags() {
  std::uint32_t flags = modem_flags(state_.control) | std::uint32_t{kFrTransmitEmpty};
  if (state_.fifo_size >= fifo_depth()) flags |= kFrReceiveFull;
  if (state_.fifo_size == 0) {
    flags |= kFrReceiveEmpty;
    if (receiver_on() && state_.status_polls < kPollingReads) ++state_.status_polls;
  }
  return flags;
}

std::uint32_t Pl011::read_register(std::uint64_t offset) {
  switch (offset) {
    case kDr:
      return read_data();
    case kRsrEcr:
      return state_.receive_status;
    case kFr:
      return read_flags();
    case kIlpr:
      return state_.irda_divisor;
    case kIbrd:
      return state_.baud_integer;
    case kFbrd:
      return state_.baud_fraction;
    case kLcrH:
      return state_.line_control;
    case kCr:
      return state_.control;
    case kIfls:
      return state_.fifo_levels;
    case kImsc:
      return state_.interrupt_mask;
    case kRis:
      return raw_interrupts();
    case kMis:
      return raw_interrupts() & state_.interrupt_mask;
    case kDmacr:
      return state_.dma_control;
    default:
      return 0;
  }
}

void Pl011::write_data(std::uint8_t value) {
  const std::byte byte{value};
  sink_.write({&byte, 1});
  if ((state_.control & kCrLoopback) != 0) push(value);
  state_.status_polls = 0;
  // The byte has left the FIFO already, which raises the interrupt (2.8.3).
  state_.latched_interrupts |= kInterruptTransmit;
}

void Pl011::write_control(std::uint16_t value) {
  const std::uint16_t before = modem_flags(state_.control);
  state_.control = value & kCrMask;
  const std::uint32_t changed = before ^ std::uint32_t{modem_flags(state_.control)};
  for (const auto& [flag, interrupt] : kModemInterrupts) {
    if ((changed & flag) != 0) state_.latched_interrupts |= interrupt;
  }
  if (!receiver_on()) {
    state_.awaits_input = false;
    state_.status_polls = 0;
  }
}

void Pl011::write_mask(std::uint16_t value) {
  state_.interrupt_mask = value & kInterruptMask;
  // Linux unmasks receive interrupts once before it turns the receiver on and empties the FIFO, and
  // once behind that, when it is ready: it is the mask written with the receiver on that counts.
  state_.awaits_input = receiver_on() && (state_.interrupt_mask & kReceiveInterrupts) != 0;
}

void Pl011::write_register(std::uint64_t offset, std::uint32_t value) {
  const auto half = static_cast<std::uint16_t>(value);
  const auto byte = static_cast<std::uint8_t>(value);
  switch (offset) {
    case kDr:
      write_data(byte);
      break;
    case kRsrEcr:
      state_.receive_status = 0;
      break;
    case kIlpr:
      state_.irda_divisor = byte;
      break;
    case kIbrd:
      state_.baud_integer = half;
      break;
    case kFbrd:
      state_.baud_fraction = byte & kFbrdMask;
      break;
    case kLcrH:
      // Bytes in the receive FIFO stay readable when it is turned on or off: Linux turns it on
      // after it has begun to listen.
      state_.line_control = byte;
      break;
    case kCr:
      write_control(half);
      break;
    case kIfls:
      state_.fifo_levels = byte & kIflsMask;
      break;
    case kImsc:
      write_mask(half);
      break;
    case kIcr:
      state_.latched_interrupts &= static_cast<std::uint16_t>(~half);
      break;
    case kDmacr:
      state_.dma_control = byte & kDmacrMask;
      break;
    default:
      break;
  }
}

bool Pl011::take_rx_space_event() {
  // Not for every byte read: half a FIFO at a time.
  if (!input_refused_ || !listening() || state_.fifo_size > fifo_depth() / 2) return false;
  input_refused_ = false;
  return on_rx_space_ != nullptr;
}

void Pl011::update_interrupt() {
  const bool level = (raw_interrupts() & state_.interrupt_mask) != 0;
  if (level != level_) interrupt_.set_level(level);
  level_ = level;
}

void Pl011::mmio_read(std::uint64_t offset, std::span<std::byte> data) {
  std::uint32_t value = 0;
  bool rx_space = false;
  if (is_register32_access(offset, data.size())) {
    const auto id = primecell_id(offset, kPeripheralId);
    const MutexLock lock(mutex_);
    value = id ? *id : read_register(offset);
    update_interrupt();
    rx_space = take_rx_space_event();
  }
  store_register32(data, value);
  if (rx_space) on_rx_space_();
}

void Pl011::mmio_write(std::uint64_t offset, std::span<const std::byte> data) {
  if (!is_register32_access(offset, data.size())) return;
  bool rx_space = false;
  {
    const MutexLock lock(mutex_);
    write_register(offset, load_register32(data));
    update_interrupt();
    rx_space = take_rx_space_event();
  }
  if (rx_space) on_rx_space_();
}

void Pl011::reset() {
  const MutexLock lock(mutex_);
  state_ = State{};
  update_interrupt();
}

}  // namespace vmm
