#include "devices/virtio/rng.h"

#include <linux/virtio_ids.h>
#include <sys/random.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

#include "devices/device_state.h"

namespace vmm::virtio {
namespace {

constexpr unsigned kQueue = 0;
// A request may be as large as the driver likes; it is filled up to the allowance.
constexpr std::array<QueueLimits, 1> kQueues{{{64, 16 << 20}}};
constexpr unsigned kRequestsPerTurn = 64;
constexpr std::uint32_t kStateVersion = 1;

}  // namespace

Rng::Rng(std::string name, EventLoop& loop)
    : name_(std::move(name)), timer_(loop.make_timer([this] { on_period_end(); })) {}

std::uint32_t Rng::type() const {
  return VIRTIO_ID_RNG;
}

std::span<const QueueLimits> Rng::queue_limits() const {
  return kQueues;
}

std::vector<Counter> Rng::counters() const {
  const MutexLock lock(mutex_);
  return {{"bytes", bytes_}, {"throttled", throttled_}};
}

void Rng::read_config(std::uint64_t, std::span<std::byte> data) const {
  std::ranges::fill(data, std::byte{0});
}

void Rng::process(unsigned) {
  Queue& requests = *queue(kQueue);
  unsigned left = kRequestsPerTurn;
  do {
    for (;; --left) {
      if (left == 0) {
        publish(requests);
        return transport().process_again(kQueue);
      }
      const auto found = requests.pop(chain_);
      if (!found) {
        publish(requests);
        return transport().needs_reset(found.error());
      }
      if (!found.value()) break;
      const std::uint32_t written = fill(chain_);
      if (written == 0 && chain_.writable_bytes() != 0) {
        requests.undo_pop();
        publish(requests);
        requests.disable_kicks();
        ++throttled_;
        return begin_period();
      }
      requests.push(chain_, written);
    }
    publish(requests);
  } while (requests.enable_kicks());
}

std::uint32_t Rng::fill(const Chain& chain) {
  std::uint64_t filled = 0;
  for (const iovec& part : chain.writable()) {
    std::uint64_t done = 0;
    const std::uint64_t wanted = std::min<std::uint64_t>(part.iov_len, allowance_);
    while (done < wanted) {
      const auto got =
          ::getrandom(static_cast<std::byte*>(part.iov_base) + done, wanted - done, GRND_NONBLOCK);
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) break;
      done += static_cast<std::uint64_t>(got);
    }
    allowance_ -= done;
    filled += done;
    if (done < part.iov_len) break;
  }
  if (filled != 0) begin_period();
  bytes_ += filled;
  return static_cast<std::uint32_t>(filled);
}

void Rng::begin_period() {
  if (in_period_) return;
  in_period_ = true;
  timer_->expires_after(kPeriod);
}

void Rng::on_period_end() {
  const MutexLock lock(mutex_);
  in_period_ = false;
  allowance_ = kAllowance;
  if (active() && queue(kQueue) != nullptr) process(kQueue);
}

void Rng::save_state(ByteWriter& writer) const {
  writer.put(kStateVersion);
}

Result<> Rng::restore_state(ByteReader& reader) {
  TRY(expect_state_version(reader, name_, kStateVersion));
  return reader.expect_end();
}

}  // namespace vmm::virtio
