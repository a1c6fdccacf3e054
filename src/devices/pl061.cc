#include "devices/pl061.h"

#include <cstdlib>

#include "devices/device_state.h"
#include "devices/pl061_registers.h"

namespace vmm {
namespace {

constexpr std::uint32_t kStateVersion = 1;

}  // namespace

Pl061::Pl061(InterruptLine& interrupt) : interrupt_(interrupt) {}

std::uint8_t Pl061::raw_interrupts() const {
  // A level-sensitive line interrupts for as long as its level lasts, an edge until it is cleared.
  const auto active = static_cast<std::uint8_t>(~(state_.inputs ^ state_.event));
  const auto levels = static_cast<std::uint8_t>(state_.sense & ~state_.direction & active);
  const auto edges = static_cast<std::uint8_t>(~state_.sense & state_.latched_edges);
  return static_cast<std::uint8_t>(levels | edges);
}

void Pl061::set_input(unsigned line, bool level) {
  if (line >= kLines) std::abort();
  const auto bit = static_cast<std::uint8_t>(1u << line);
  const MutexLock lock(mutex_);
  if (((state_.inputs & bit) != 0) == level) return;
  state_.inputs = static_cast<std::uint8_t>(state_.inputs ^ bit);
  const bool wanted = (state_.both_edges & bit) != 0 || ((state_.event & bit) != 0) == level;
  const bool edge_input = ((state_.sense | state_.direction) & bit) == 0;
  if (edge_input && wanted) {
    state_.latched_edges = static_cast<std::uint8_t>(state_.latched_edges | bit);
  }
  update_interrupt();
}

void Pl061::update_interrupt() {
  const bool level = (raw_interrupts() & state_.enable) != 0;
  if (level != level_) interrupt_.set_level(level);
  level_ = level;
}

void Pl061::reset() {
  const MutexLock lock(mutex_);
  const std::uint8_t inputs = state_.inputs;
  state_ = State{};
  state_.inputs = inputs;
  update_interrupt();
}

std::uint32_t Pl061::read_register(std::uint64_t offset) const {
  if (offset < pl061::kDataEnd) {
    const auto lines = static_cast<std::uint32_t>(offset >> 2);
    const std::uint32_t pins = (state_.outputs & state_.direction) |
                               (state_.inputs & ~static_cast<std::uint32_t>(state_.direction));
    return pins & lines;
  }
  switch (offset) {
    case pl061::kDir:
      return state_.direction;
    case pl061::kIs:
      return state_.sense;
    case pl061::kIbe:
      return state_.both_edges;
    case pl061::kIev:
      return state_.event;
    case pl061::kIe:
      return state_.enable;
    case pl061::kRis:
      return raw_interrupts();
    case pl061::kMis:
      return raw_interrupts() & state_.enable;
    case pl061::kAfsel:
      return state_.alternate;
    default:
      return 0;
  }
}

void Pl061::write_register(std::uint64_t offset, std::uint8_t value) {
  if (offset < pl061::kDataEnd) {
    // Only lines that are outputs by now take the value (3.3.1).
    const auto lines = static_cast<std::uint8_t>((offset >> 2) & state_.direction);
    state_.outputs = static_cast<std::uint8_t>((state_.outputs & ~lines) | (value & lines));
    return;
  }
  switch (offset) {
    case pl061::kDir:
      state_.direction = value;
      break;
    case pl061::kIs:
      state_.sense = value;
      break;
    case pl061::kIbe:
      state_.both_edges = value;
      break;
    case pl061::kIev:
      state_.event = value;
      break;
    case pl061::kIe:
      state_.enable = value;
      break;
    case pl061::kIc:
      state_.latched_edges = static_cast<std::uint8_t>(state_.latched_edges & ~value);
      break;
    case pl061::kAfsel:
      state_.alternate = value;
      break;
    default:
      break;
  }
}

void Pl061::mmio_read(std::uint64_t offset, std::span<std::byte> data) {
  std::uint32_t value = 0;
  if (is_register32_access(offset, data.size())) {
    const auto id = primecell_id(offset, pl061::kPeripheralId);
    const MutexLock lock(mutex_);
    value = id ? *id : read_register(offset);
  }
  store_register32(data, value);
}

void Pl061::mmio_write(std::uint64_t offset, std::span<const std::byte> data) {
  if (!is_register32_access(offset, data.size())) return;
  const MutexLock lock(mutex_);
  write_register(offset, static_cast<std::uint8_t>(load_register32(data)));
  update_interrupt();
}

void Pl061::save(ByteWriter& writer) const {
  State state;
  {
    const MutexLock lock(mutex_);
    state = state_;
  }
  writer.put(kStateVersion);
  for (const std::uint8_t value :
       {state.inputs, state.outputs, state.direction, state.sense, state.both_edges, state.event,
        state.enable, state.latched_edges, state.alternate}) {
    writer.put(value);
  }
}

Result<> Pl061::restore(ByteReader& reader) {
  TRY(expect_state_version(reader, name(), kStateVersion));
  State state;
  // Every value of these fields is one the guest can bring about.
  for (std::uint8_t* field :
       {&state.inputs, &state.outputs, &state.direction, &state.sense, &state.both_edges,
        &state.event, &state.enable, &state.latched_edges, &state.alternate}) {
    TRY(*field, reader.get<std::uint8_t>());
  }
  const MutexLock lock(mutex_);
  state_ = state;
  level_ = (raw_interrupts() & state_.enable) != 0;
  interrupt_.set_level(level_);
  return success();
}

}  // namespace vmm
