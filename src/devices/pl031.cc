#include "devices/pl031.h"

#include "devices/device_state.h"
#include "devices/pl031_registers.h"

namespace vmm {
namespace {

constexpr std::uint32_t kStateVersion = 1;
// Bound of a deadline read from a peer: the year 2242, which a nanosecond count of 64 bits holds.
constexpr std::int64_t kMaxWallSeconds = std::int64_t{1} << 33;

}  // namespace

Pl031::Pl031(InterruptLine& interrupt, const Clock& clock, AlarmTimer& timer)
    : interrupt_(interrupt), clock_(clock), timer_(timer) {
  state_.deadline = next_match(state_, clock_.wall_seconds());
}

std::uint32_t Pl031::counter(const State& state, std::int64_t now) {
  return static_cast<std::uint32_t>(now) + state.offset;
}

std::int64_t Pl031::next_match(const State& state, std::int64_t from) {
  return from + std::int64_t{state.match - counter(state, from)};
}

void Pl031::catch_up(std::int64_t now) {
  if (now < state_.deadline) return;
  state_.raw = true;
  state_.deadline = next_match(state_, now + 1);
}

void Pl031::update_interrupt() {
  const bool level = state_.raw && state_.mask;
  if (level != level_) interrupt_.set_level(level);
  level_ = level;
  // Reads find a match by themselves: the timer is for the interrupt alone.
  const auto wanted = state_.mask && !state_.raw ? std::optional(state_.deadline) : std::nullopt;
  if (wanted != armed_) timer_.arm_at(wanted);
  armed_ = wanted;
}

void Pl031::on_alarm() {
  const MutexLock lock(mutex_);
  // The one shot that was asked for is gone; where the clock has been set back in the meantime the
  // timer is armed again.
  armed_.reset();
  catch_up(clock_.wall_seconds());
  update_interrupt();
}

void Pl031::reset() {
  const std::int64_t now = clock_.wall_seconds();
  const MutexLock lock(mutex_);
  State fresh;
  fresh.offset = state_.offset;
  fresh.deadline = next_match(fresh, now);
  state_ = fresh;
  update_interrupt();
}

std::uint32_t Pl031::read_register(std::uint64_t offset) {
  const std::int64_t now = clock_.wall_seconds();
  catch_up(now);
  switch (offset) {
    case pl031::kDr:
      return counter(state_, now);
    case pl031::kMr:
      return state_.match;
    case pl031::kLr:
      return state_.load;
    case pl031::kCr:
      return pl031::kCrStart;
    case pl031::kImsc:
      return state_.mask ? pl031::kInterrupt : 0;
    case pl031::kRis:
      return state_.raw ? pl031::kInterrupt : 0;
    case pl031::kMis:
      return state_.raw && state_.mask ? pl031::kInterrupt : 0;
    default:
      return 0;
  }
}

void Pl031::write_register(std::uint64_t offset, std::uint32_t value) {
  const std::int64_t now = clock_.wall_seconds();
  catch_up(now);
  switch (offset) {
    case pl031::kMr:
      state_.match = value;
      state_.deadline = next_match(state_, now);
      break;
    case pl031::kLr:
      state_.load = value;
      state_.offset = value - static_cast<std::uint32_t>(now);
      state_.deadline = next_match(state_, now);
      break;
    case pl031::kImsc:
      state_.mask = (value & pl031::kInterrupt) != 0;
      break;
    case pl031::kIcr:
      if ((value & pl031::kInterrupt) != 0) state_.raw = false;
      break;
    default:
      break;
  }
  // A match register that is set to this very second matches now.
  catch_up(now);
}

void Pl031::mmio_read(std::uint64_t offset, std::span<std::byte> data) {
  std::uint32_t value = 0;
  if (is_register32_access(offset, data.size())) {
    const auto id = primecell_id(offset, pl031::kPeripheralId);
    const MutexLock lock(mutex_);
    value = id ? *id : read_register(offset);
    update_interrupt();
  }
  store_register32(data, value);
}

void Pl031::mmio_write(std::uint64_t offset, std::span<const std::byte> data) {
  if (!is_register32_access(offset, data.size())) return;
  const MutexLock lock(mutex_);
  write_register(offset, load_register32(data));
  update_interrupt();
}

void Pl031::save(ByteWriter& writer) const {
  State state;
  {
    const MutexLock lock(mutex_);
    state = state_;
  }
  writer.put(kStateVersion);
  writer.put(state.offset);
  writer.put(state.match);
  writer.put(state.load);
  writer.put(state.deadline);
  writer.put_bool(state.mask);
  writer.put_bool(state.raw);
}

Result<Pl031::State> Pl031::decode(ByteReader& reader) {
  TRY(expect_state_version(reader, "pl031", kStateVersion));
  State state;
  TRY(state.offset, reader.get<std::uint32_t>());
  TRY(state.match, reader.get<std::uint32_t>());
  TRY(state.load, reader.get<std::uint32_t>());
  TRY(state.deadline, reader.get<std::int64_t>());
  TRY(state.mask, reader.get_bool());
  TRY(state.raw, reader.get_bool());
  // The deadline says which of the seconds that show the match register's value comes next.
  if (state.deadline < 0 || state.deadline > kMaxWallSeconds ||
      counter(state, state.deadline) != state.match) {
    return fail(bad_state_field("pl031", "deadline", static_cast<std::uint64_t>(state.deadline)));
  }
  return state;
}

Result<> Pl031::restore(ByteReader& reader) {
  TRY(auto state, decode(reader));
  const std::int64_t now = clock_.wall_seconds();
  const MutexLock lock(mutex_);
  state_ = state;
  // An alarm that came due while the guest was on its way goes off now.
  catch_up(now);
  level_ = state_.raw && state_.mask;
  interrupt_.set_level(level_);
  update_interrupt();
  return success();
}

}  // namespace vmm
