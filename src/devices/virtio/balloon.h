#pragma once

#include <linux/virtio_balloon.h>

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "base/thread_annotations.h"
#include "devices/event_loop.h"
#include "devices/virtio/device.h"
#include "memory/guest_memory.h"

namespace vmm::virtio {

// What the guest says about its memory, by VIRTIO_BALLOON_S_*: bytes, or counts of events; only
// what it has said. It may say anything.
using BalloonStatistics = std::array<std::optional<std::uint64_t>, VIRTIO_BALLOON_S_NR>;

// A memory balloon (virtio 1.2, 5.5): the guest gives up pages on request, and reports those that
// are free anyway. Both go back to the host at once, and read as zero when the guest uses them
// again; it need not tell before it does.
//
// A page that the guest has given up is its own all the same: what is discarded wrongly harms
// nobody but the guest.
class Balloon final : public VirtioDevice {
 public:
  struct Status {
    std::uint64_t target;  // bytes that the guest shall give up
    std::uint64_t actual;  // bytes that it says it has given up
    BalloonStatistics statistics;
    // How often the guest has told statistics since the device was made.
    std::uint64_t statistics_updates;
  };

  // memory and loop must outlive the device.
  Balloon(GuestMemory& memory, EventLoop& loop);

  // Asks the guest to have so many bytes in the balloon, rounded down to pages of 4 KiB; at most
  // the size of its RAM. It comes to that when it can, and never where it has no driver. While the
  // device is quiet the target comes into force with resume(). Call it once the device is behind
  // its transport. Threads: the event loop.
  void set_target(std::uint64_t bytes) VMM_EXCLUDES(mutex_);
  // Asks the guest for new statistics; they come when it answers.
  void request_statistics() VMM_EXCLUDES(mutex_);
  // Asks for statistics regularly; a period of 0 ends that. Threads: the event loop.
  void set_statistics_period(std::chrono::seconds period) VMM_EXCLUDES(mutex_);
  // Threads: any.
  [[nodiscard]] Status status() const VMM_EXCLUDES(mutex_);

  [[nodiscard]] std::string_view name() const override { return "balloon"; }
  [[nodiscard]] std::uint32_t type() const override;
  [[nodiscard]] std::uint64_t offered_features() const override;
  [[nodiscard]] std::span<const QueueLimits> queue_limits() const override { return limits_; }
  [[nodiscard]] std::vector<Counter> counters() const override VMM_EXCLUDES(mutex_);

 protected:
  void read_config(std::uint64_t offset, std::span<std::byte> data) const override
      VMM_REQUIRES(mutex_);
  void write_config(std::uint64_t offset, std::span<const std::byte> data) override
      VMM_REQUIRES(mutex_);
  void activate() override VMM_REQUIRES(mutex_) {}
  void process(unsigned index) override VMM_REQUIRES(mutex_);
  void reset() override VMM_REQUIRES(mutex_);
  void quiesce() override VMM_REQUIRES(mutex_);
  void resume() override VMM_REQUIRES(mutex_);
  void save_state(ByteWriter& writer) const override VMM_REQUIRES(mutex_);
  [[nodiscard]] Result<> restore_state(ByteReader& reader) override VMM_REQUIRES(mutex_);

 private:
  static constexpr std::size_t kQueueCount = 5;
  enum class Role { kInflate, kDeflate, kStatistics, kReporting, kNone };

  // A range of guest memory, by offset into RAM.
  struct Range {
    std::uint64_t offset;
    std::uint64_t size;
  };

  [[nodiscard]] Role role_of(unsigned index) const VMM_REQUIRES(mutex_);
  // Handles the request in chain_; returns how many pages it was about, or the driver's mistake.
  using Handler = Result<std::uint64_t> (Balloon::*)();
  // Handles requests of a queue up to a limit.
  void drain(unsigned index, Handler handle) VMM_REQUIRES(mutex_);
  [[nodiscard]] Result<std::uint64_t> inflate() VMM_REQUIRES(mutex_);
  [[nodiscard]] Result<std::uint64_t> deflate() VMM_REQUIRES(mutex_);
  [[nodiscard]] Result<std::uint64_t> report() VMM_REQUIRES(mutex_);
  [[nodiscard]] Result<> read_page_numbers() VMM_REQUIRES(mutex_);
  void discard_ranges() VMM_REQUIRES(mutex_);
  void read_statistics(Queue& queue) VMM_REQUIRES(mutex_);
  void ask_for_statistics() VMM_REQUIRES(mutex_);
  void on_period();
  void apply_target() VMM_REQUIRES(mutex_);

  GuestMemory& memory_;
  const std::array<QueueLimits, kQueueCount> limits_;
  const std::unique_ptr<LoopTimer> period_timer_;

  // Reused from request to request.
  Chain chain_ VMM_GUARDED_BY(mutex_);
  std::vector<std::byte> bytes_ VMM_GUARDED_BY(mutex_);
  std::vector<Range> ranges_ VMM_GUARDED_BY(mutex_);

  // In pages of 4 KiB.
  std::uint32_t target_ VMM_GUARDED_BY(mutex_) = 0;
  std::uint32_t actual_ VMM_GUARDED_BY(mutex_) = 0;
  // What set_target() was told, until it is in force.
  std::optional<std::uint32_t> new_target_ VMM_GUARDED_BY(mutex_);
  bool quiet_ VMM_GUARDED_BY(mutex_) = true;
  std::chrono::seconds period_ VMM_GUARDED_BY(mutex_){0};
  BalloonStatistics statistics_ VMM_GUARDED_BY(mutex_);
  std::uint64_t statistics_updates_ VMM_GUARDED_BY(mutex_) = 0;

  std::uint64_t inflated_pages_ VMM_GUARDED_BY(mutex_) = 0;
  std::uint64_t deflated_pages_ VMM_GUARDED_BY(mutex_) = 0;
  std::uint64_t reported_bytes_ VMM_GUARDED_BY(mutex_) = 0;
  std::uint64_t discard_errors_ VMM_GUARDED_BY(mutex_) = 0;
};

}  // namespace vmm::virtio
