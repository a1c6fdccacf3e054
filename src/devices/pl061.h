#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "base/thread_annotations.h"
#include "devices/device.h"
#include "devices/interrupt_line.h"
#include "devices/mmio.h"

namespace vmm {

// PrimeCell General Purpose Input/Output PL061 (ARM DDI 0190): eight lines, of which the VMM drives
// inputs such as the power key. Lines that nobody drives are low; outputs lead nowhere.
class Pl061 final : public Device, public MmioDevice {
 public:
  static constexpr std::uint64_t kWindow = kPrimeCellWindow;
  static constexpr unsigned kLines = 8;

  // interrupt must outlive the device.
  explicit Pl061(InterruptLine& interrupt);

  // Drives input `line` (0 to 7; another one is a bug of the caller and aborts). Threads: any.
  void set_input(unsigned line, bool level) VMM_EXCLUDES(mutex_);

  [[nodiscard]] std::string_view name() const override { return "pl061"; }
  // Input levels stay.
  void reset() override VMM_EXCLUDES(mutex_);
  void save(ByteWriter& writer) const override VMM_EXCLUDES(mutex_);
  [[nodiscard]] Result<> restore(ByteReader& reader) override VMM_EXCLUDES(mutex_);

  void mmio_read(std::uint64_t offset, std::span<std::byte> data) override VMM_EXCLUDES(mutex_);
  void mmio_write(std::uint64_t offset, std::span<const std::byte> data) override
      VMM_EXCLUDES(mutex_);

 private:
  // One bit a line throughout.
  struct State {
    std::uint8_t inputs = 0;         // levels the VMM drives
    std::uint8_t outputs = 0;        // levels the guest has written
    std::uint8_t direction = 0;      // 1 is an output
    std::uint8_t sense = 0;          // 1 is level-sensitive, 0 is edges
    std::uint8_t both_edges = 0;     // 1 is both edges, whatever event says
    std::uint8_t event = 0;          // 1 is the rising edge or the high level
    std::uint8_t enable = 0;         // 1 lets the interrupt through
    std::uint8_t latched_edges = 0;  // edges seen and not cleared
    std::uint8_t alternate = 0;
  };

  [[nodiscard]] std::uint8_t raw_interrupts() const VMM_REQUIRES(mutex_);
  [[nodiscard]] std::uint32_t read_register(std::uint64_t offset) const VMM_REQUIRES(mutex_);
  void write_register(std::uint64_t offset, std::uint8_t value) VMM_REQUIRES(mutex_);
  void update_interrupt() VMM_REQUIRES(mutex_);

  InterruptLine& interrupt_;
  mutable Mutex mutex_;
  State state_ VMM_GUARDED_BY(mutex_);
  bool level_ VMM_GUARDED_BY(mutex_) = false;
};

}  // namespace vmm
