// Saving and restoring the PL011.
#include <algorithm>

#include "devices/device_state.h"
#include "devices/pl011.h"
#include "devices/pl011_registers.h"

namespace vmm {
namespace {

constexpr std::uint32_t kStateVersion = 1;
constexpr auto kLatched =
    static_cast<std::uint16_t>(pl011::kInterruptMask & ~pl011::kInterruptReceiveTimeout);

}  // namespace

void Pl011::save(ByteWriter& writer) const {
  State state;
  {
    const MutexLock lock(mutex_);
    state = state_;
  }
  writer.put(kStateVersion);
  writer.put(state.control);
  writer.put(state.latched_interrupts);
  writer.put(state.interrupt_mask);
  writer.put(state.baud_integer);
  writer.put(state.baud_fraction);
  writer.put(state.line_control);
  writer.put(state.fifo_levels);
  writer.put(state.irda_divisor);
  writer.put(state.dma_control);
  writer.put(state.receive_status);
  writer.put_bool(state.overrun);
  writer.put_bool(state.awaits_input);
  writer.put(state.status_polls);
  writer.put_blob(std::as_bytes(std::span(state.fifo).first(state.fifo_size)));
}

Result<Pl011::State> Pl011::decode(ByteReader& reader) {
  constexpr std::string_view kName = "pl011";
  TRY(expect_state_version(reader, kName, kStateVersion));
  State state;
  TRY(state.control, get_register(reader, kName, "control", pl011::kCrMask));
  TRY(state.latched_interrupts, get_register(reader, kName, "interrupt status", kLatched));
  TRY(state.interrupt_mask, get_register(reader, kName, "interrupt mask", pl011::kInterruptMask));
  TRY(state.baud_integer, reader.get<std::uint16_t>());
  TRY(state.baud_fraction, get_register(reader, kName, "baud rate", pl011::kFbrdMask));
  TRY(state.line_control, reader.get<std::uint8_t>());
  TRY(state.fifo_levels, get_register(reader, kName, "FIFO levels", pl011::kIflsMask));
  TRY(state.irda_divisor, reader.get<std::uint8_t>());
  TRY(state.dma_control, get_register(reader, kName, "DMA control", pl011::kDmacrMask));
  TRY(state.receive_status, get_register(reader, kName, "receive status", pl011::kRsrOverrun));
  TRY(state.overrun, reader.get_bool());
  TRY(state.awaits_input, reader.get_bool());
  TRY(state.status_polls, reader.get<std::uint8_t>());
  if (state.status_polls > kPollingReads) {
    return fail(bad_state_field(kName, "status polls", state.status_polls));
  }
  TRY(auto fifo, reader.get_blob(kFifoDepth));
  std::ranges::transform(fifo, state.fifo.begin(),
                         [](std::byte byte) { return std::to_integer<std::uint8_t>(byte); });
  state.fifo_size = static_cast<std::uint8_t>(fifo.size());
  return state;
}

Result<> Pl011::restore(ByteReader& reader) {
  TRY(auto state, decode(reader));
  const MutexLock lock(mutex_);
  state_ = state;
  level_ = (raw_interrupts() & state_.interrupt_mask) != 0;
  interrupt_.set_level(level_);
  return success();
}

}  // namespace vmm
