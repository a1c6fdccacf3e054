#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/thread_annotations.h"
#include "devices/event_loop.h"
#include "devices/virtio/device.h"

namespace vmm::virtio {

// The entropy device (virtio 1.2, 5.4): random bytes of the host's kernel, and no more of them a
// second than a guest has use for, so that a guest cannot keep the event loop busy. A request gets
// what is left of the allowance; with none left it waits for the next period.
class Rng final : public VirtioDevice {
 public:
  // Bytes in each period that begins with a request: 64 KiB a second. A guest's kernel seeds itself
  // with a few hundred.
  static constexpr std::uint64_t kAllowance = 16 * 1024;
  static constexpr std::chrono::milliseconds kPeriod{250};

  // loop must outlive the device. Threads: the event loop's.
  Rng(std::string name, EventLoop& loop);

  [[nodiscard]] std::string_view name() const override { return name_; }
  [[nodiscard]] std::uint32_t type() const override;
  [[nodiscard]] std::uint64_t offered_features() const override { return 0; }
  [[nodiscard]] std::span<const QueueLimits> queue_limits() const override;
  [[nodiscard]] std::vector<Counter> counters() const override VMM_EXCLUDES(mutex_);

 protected:
  void read_config(std::uint64_t offset, std::span<std::byte> data) const override
      VMM_REQUIRES(mutex_);
  void write_config(std::uint64_t, std::span<const std::byte>) override VMM_REQUIRES(mutex_) {}
  void activate() override VMM_REQUIRES(mutex_) {}
  void process(unsigned index) override VMM_REQUIRES(mutex_);
  // Requests that wait do so in the queue, and the allowance is the host's: neither a reset nor a
  // stop changes it.
  void reset() override VMM_REQUIRES(mutex_) {}
  void quiesce() override VMM_REQUIRES(mutex_) {}
  void resume() override VMM_REQUIRES(mutex_) {}
  void save_state(ByteWriter& writer) const override VMM_REQUIRES(mutex_);
  [[nodiscard]] Result<> restore_state(ByteReader& reader) override VMM_REQUIRES(mutex_);

 private:
  void on_period_end() VMM_EXCLUDES(mutex_);
  // Fills a request as far as the allowance goes; 0 where the host has no random bytes yet.
  [[nodiscard]] std::uint32_t fill(const Chain& chain) VMM_REQUIRES(mutex_);
  void begin_period() VMM_REQUIRES(mutex_);

  const std::string name_;
  const std::unique_ptr<LoopTimer> timer_;

  std::uint64_t allowance_ VMM_GUARDED_BY(mutex_) = kAllowance;
  bool in_period_ VMM_GUARDED_BY(mutex_) = false;  // the timer is set
  Chain chain_ VMM_GUARDED_BY(mutex_);
  std::uint64_t bytes_ VMM_GUARDED_BY(mutex_) = 0;
  std::uint64_t throttled_ VMM_GUARDED_BY(mutex_) = 0;
};

}  // namespace vmm::virtio
