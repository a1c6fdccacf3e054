#pragma once

#include <linux/virtio_ids.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "devices/virtio/device.h"

namespace vmm::virtio {

// A device that gives back every request, with the text "pong" where there is room for it, and
// remembers what the transport has asked of it.
class EchoDevice final : public VirtioDevice {
 public:
  static constexpr unsigned kFeature = 3;
  static constexpr std::size_t kConfigSize = 8;
  static constexpr std::uint32_t kStateVersion = 1;
  static constexpr std::uint16_t kQueueSize = 16;

  [[nodiscard]] std::string_view name() const override { return "echo"; }
  [[nodiscard]] std::uint32_t type() const override { return VIRTIO_ID_RNG; }
  [[nodiscard]] std::uint64_t offered_features() const override {
    return std::uint64_t{1} << kFeature;
  }
  [[nodiscard]] std::span<const QueueLimits> queue_limits() const override { return kQueues; }
  [[nodiscard]] std::vector<Counter> counters() const override { return {}; }

  // What the device might do at any time, as one of its event handlers.
  void change_config() {
    const MutexLock lock(mutex_);
    transport().notify_config();
  }
  void find_protocol_broken() {
    const MutexLock lock(mutex_);
    transport().needs_reset(make_error(ErrorKind::kFailed, "made up"));
  }
  void ask_again(unsigned queue) {
    const MutexLock lock(mutex_);
    transport().process_again(queue);
  }
  [[nodiscard]] bool is_active() const {
    const MutexLock lock(mutex_);
    return active();
  }
  [[nodiscard]] std::uint64_t agreed_features() const {
    const MutexLock lock(mutex_);
    return features();
  }
  [[nodiscard]] bool has_queue(unsigned index) {
    const MutexLock lock(mutex_);
    return queue(index) != nullptr;
  }
  // The calls since the last time, in order.
  [[nodiscard]] std::string take_calls() {
    const MutexLock lock(mutex_);
    return std::exchange(calls_, {});
  }

 protected:
  void read_config(std::uint64_t offset, std::span<std::byte> data) const override {
    for (std::size_t i = 0; i < data.size(); ++i) {
      data[i] = offset + i < kConfigSize ? config_[offset + i] : std::byte{0};
    }
  }
  void write_config(std::uint64_t offset, std::span<const std::byte> data) override {
    for (std::size_t i = 0; i < data.size() && offset + i < kConfigSize; ++i) {
      config_[offset + i] = data[i];
    }
  }
  void activate() override { note("activate"); }
  void process(unsigned index) override {
    note("process");
    Queue& taken = *queue(index);
    for (;;) {
      auto popped = taken.pop(chain_);
      if (!popped) return transport().needs_reset(popped.error());
      if (!popped.value()) break;
      const auto writable = chain_.writable();
      const bool fits = !writable.empty() && writable[0].iov_len >= 4;
      if (fits) std::memcpy(writable[0].iov_base, "pong", 4);
      taken.push(chain_, fits ? 4 : 0);
    }
    publish(taken);
  }
  void reset() override { note("reset"); }
  void quiesce() override { note("quiesce"); }
  void resume() override { note("resume"); }
  void save_state(ByteWriter& writer) const override {
    writer.put(kStateVersion);
    writer.put_bytes(config_);
  }
  [[nodiscard]] Result<> restore_state(ByteReader& reader) override {
    TRY(const auto version, reader.get<std::uint32_t>());
    TRY(const auto config, reader.get_bytes(kConfigSize));
    TRY(reader.expect_end());
    if (version != kStateVersion) return fail(ErrorKind::kFailed, "version {}", version);
    note("restore");
    std::ranges::copy(config, config_.begin());
    return success();
  }

 private:
  // Bounded, for a test that goes on for long.
  void note(std::string_view call) {
    if (calls_.size() > 4096) return;
    if (!calls_.empty()) calls_ += ' ';
    calls_ += call;
  }

  static constexpr std::array<QueueLimits, 2> kQueues{
      {{kQueueSize, 1 << 20}, {kQueueSize, 1 << 20}}};
  Chain chain_;
  std::string calls_;
  std::array<std::byte, kConfigSize> config_{};
};

}  // namespace vmm::virtio
