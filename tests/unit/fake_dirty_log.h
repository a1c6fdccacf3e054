#pragma once

#include <functional>
#include <utility>
#include <vector>

#include "memory/dirty_log.h"

namespace vmm {

// KVM's log as far as its interface tells: a guest's write sets a bit while logging is on, clear()
// takes the bits of its mask out. `between` runs before and after each operation, which is where
// vCPUs come in.
class FakeDirtyLog final : public DirtyLog {
 public:
  explicit FakeDirtyLog(std::uint64_t pages) : pages_(pages), bits_(pages) {}

  // A vCPU has written to a page.
  void write(std::uint64_t page) {
    if (on) bits_.set(page);
  }

  [[nodiscard]] std::uint64_t pages() const override { return pages_; }
  [[nodiscard]] bool offers(DirtyLogMode mode) const override {
    return hardware || mode == DirtyLogMode::kWriteProtect;
  }
  [[nodiscard]] Result<> start(DirtyLogMode mode) override {
    TRY(step());
    mode_ = mode;
    on = true;
    bits_.set_range({0, pages_});
    return success();
  }
  [[nodiscard]] Result<> set_mode(DirtyLogMode mode) override {
    mode_ = mode;
    return step();
  }
  [[nodiscard]] DirtyLogMode mode() const { return mode_; }
  [[nodiscard]] Result<std::uint64_t> armed() const override { return armed_; }
  [[nodiscard]] Result<> get(std::span<std::uint64_t> bits) override {
    ++gets;
    TRY(step());
    for (std::size_t i = 0; i < bits.size(); ++i) bits[i] = bits_.word(i);
    return step();
  }
  [[nodiscard]] Result<> clear(PageRange range, std::span<const std::uint64_t> bits) override {
    clears.push_back(range);
    TRY(step());
    if (mode_ == DirtyLogMode::kHardware && records) ++armed_;
    for (std::size_t i = 0; i < bits.size(); ++i) {
      const std::size_t word = range.first / kPagesPerWord + i;
      bits_.or_word(word, bits_.exchange_word(word) & ~bits[i]);
    }
    return step();
  }
  [[nodiscard]] Result<> stop() override {
    ++stops;
    on = false;
    return success();
  }

  // The next operation fails.
  bool broken = false;
  bool hardware = true;  // is offered
  bool records = true;   // hardware mode has an effect
  bool on = false;
  int gets = 0;
  int stops = 0;
  std::vector<PageRange> clears;
  std::function<void()> between = [] {};

 private:
  [[nodiscard]] Result<> step() {
    if (std::exchange(broken, false)) return fail(ErrorKind::kHost, "the log is broken");
    between();
    return success();
  }

  std::uint64_t pages_;
  DirtyBitmap bits_;
  std::uint64_t armed_ = 0;
  DirtyLogMode mode_ = DirtyLogMode::kWriteProtect;
};

}  // namespace vmm
