#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "base/thread_annotations.h"
#include "devices/clock.h"
#include "devices/device.h"
#include "devices/interrupt_line.h"
#include "devices/mmio.h"

namespace vmm {

// Wakes a real-time clock for its alarm.
class AlarmTimer {
 public:
  virtual ~AlarmTimer() = default;

  // From now on Pl031::on_alarm() is to be called when the wall clock reaches this second, and not
  // for one given before; nothing: not at all. A call too early or too many does no harm. Called
  // from any thread with the lock of the clock held: it must not call on_alarm() itself.
  virtual void arm_at(std::optional<std::int64_t> wall_seconds) = 0;
};

// PrimeCell Real Time Clock PL031 (ARM DDI 0224): seconds of the wall clock, modulo 2^32, and an
// alarm. The state holds the difference from the wall clock, so that after a migration the guest
// reads the time of its new host, with what it had itself set added.
class Pl031 final : public Device, public MmioDevice {
 public:
  static constexpr std::uint64_t kWindow = kPrimeCellWindow;

  // All three must outlive the device.
  Pl031(InterruptLine& interrupt, const Clock& clock, AlarmTimer& timer);

  // The time given to AlarmTimer has come. Threads: any.
  void on_alarm() VMM_EXCLUDES(mutex_);

  [[nodiscard]] std::string_view name() const override { return "pl031"; }
  // Keeps the time, as a clock with a battery does.
  void reset() override VMM_EXCLUDES(mutex_);
  void save(ByteWriter& writer) const override VMM_EXCLUDES(mutex_);
  [[nodiscard]] Result<> restore(ByteReader& reader) override VMM_EXCLUDES(mutex_);

  void mmio_read(std::uint64_t offset, std::span<std::byte> data) override VMM_EXCLUDES(mutex_);
  void mmio_write(std::uint64_t offset, std::span<const std::byte> data) override
      VMM_EXCLUDES(mutex_);

 private:
  struct State {
    std::uint32_t offset = 0;  // counter minus wall clock, in seconds modulo 2^32
    std::uint32_t match = 0;
    std::uint32_t load = 0;     // last value written to RTCLR
    std::int64_t deadline = 0;  // wall-clock second of the next match, behind the last one seen
    bool mask = false;          // true lets the interrupt through
    bool raw = false;
  };

  [[nodiscard]] static Result<State> decode(ByteReader& reader);
  [[nodiscard]] static std::uint32_t counter(const State& state, std::int64_t now);
  // The next second at or behind `from` at which the counter equals the match register.
  [[nodiscard]] static std::int64_t next_match(const State& state, std::int64_t from);

  [[nodiscard]] std::uint32_t read_register(std::uint64_t offset) VMM_REQUIRES(mutex_);
  void write_register(std::uint64_t offset, std::uint32_t value) VMM_REQUIRES(mutex_);
  // Notes a match that has come by `now`.
  void catch_up(std::int64_t now) VMM_REQUIRES(mutex_);
  void update_interrupt() VMM_REQUIRES(mutex_);

  InterruptLine& interrupt_;
  const Clock& clock_;
  AlarmTimer& timer_;
  mutable Mutex mutex_;
  State state_ VMM_GUARDED_BY(mutex_);
  bool level_ VMM_GUARDED_BY(mutex_) = false;
  std::optional<std::int64_t> armed_ VMM_GUARDED_BY(mutex_);
};

}  // namespace vmm
