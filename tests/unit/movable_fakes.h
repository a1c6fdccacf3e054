#pragma once

#include <chrono>
#include <cstdlib>
#include <optional>
#include <utility>
#include <vector>

#include "fake_dirty_log.h"
#include "vmm/layout.h"
#include "vmm/movable_machine.h"

namespace vmm {

inline GuestMemory small_memory(std::uint64_t bytes) {
  auto memory = GuestMemory::create(layout::kRamBase, bytes, Backing::kAnonymous);
  if (!memory) std::abort();
  return std::move(memory).value();
}

// What a migration needs of a machine, without KVM: memory, a fake log of it, and a state that is
// any bytes.
class FakeMovable final : public MovableMachine {
 public:
  explicit FakeMovable(std::uint64_t bytes)
      : memory_(small_memory(bytes)), log_(bytes / kPageSize) {}

  [[nodiscard]] GuestMemory& memory() override { return memory_; }
  [[nodiscard]] FakeDirtyLog& dirty_log() override { return log_; }
  void throttle(unsigned percent) override { throttled = percent; }
  [[nodiscard]] const std::vector<std::byte>& identity() const override { return own_identity; }
  [[nodiscard]] Result<std::vector<std::byte>> save() override {
    ++saves;
    return state;
  }
  [[nodiscard]] Result<> restore(std::span<const std::byte> bytes) override {
    ++restores;
    if (restore_fails) return fail(ErrorKind::kHost, "the state does not fit");
    state.assign(bytes.begin(), bytes.end());
    return success();
  }
  [[nodiscard]] Result<> advance_counter(std::chrono::nanoseconds elapsed) override {
    stood_still = elapsed;
    return success();
  }
  void announce() override { announced = true; }

  std::vector<std::byte> own_identity = std::vector<std::byte>(16, std::byte{0x11});
  std::vector<std::byte> state = std::vector<std::byte>(8, std::byte{0x22});
  bool restore_fails = false;
  unsigned throttled = 0;
  int saves = 0;
  int restores = 0;
  std::optional<std::chrono::nanoseconds> stood_still;
  bool announced = false;

 private:
  GuestMemory memory_;
  FakeDirtyLog log_;
};

}  // namespace vmm
