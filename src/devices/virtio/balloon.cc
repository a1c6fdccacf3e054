#include "devices/virtio/balloon.h"

#include <linux/virtio_ids.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/checked.h"
#include "devices/device_state.h"
#include "devices/virtio/config_space.h"

namespace vmm::virtio {
namespace {

constexpr std::uint32_t kStateVersion = 1;

// The device's own unit, whatever pages the guest uses (virtio 1.2, 5.5.6).
constexpr std::uint64_t kBalloonPage = std::uint64_t{1} << VIRTIO_BALLOON_PFN_SHIFT;
using PageNumber = std::uint32_t;

// Linux gives up at most 256 pages a request, other drivers a page full of numbers, which is 1024.
constexpr std::uint64_t kMaxPageNumberBytes = 16 * 1024;
// Linux tells 16 statistics.
constexpr std::uint64_t kMaxStatisticsBytes = 4096;
// Linux reports 32 free ranges at a time, and wants a descriptor for each.
constexpr std::uint16_t kQueueSize = 64;

// What one pass of a queue gives back before others get their turn.
constexpr std::uint64_t kPassPages = (std::uint64_t{256} << 20) / kBalloonPage;
constexpr unsigned kPassRequests = 16;

constexpr std::uint64_t feature(unsigned bit) {
  return std::uint64_t{1} << bit;
}

// Pages that the host can take back.
std::uint64_t discard_granule() {
  return std::max(static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE)), kPageSize);
}

// Copies the readable part of a request, which its device has capped.
void gather(const Chain& chain, std::vector<std::byte>& bytes) {
  bytes.clear();
  for (const iovec& segment : chain.readable()) {
    const auto* start = static_cast<const std::byte*>(segment.iov_base);
    bytes.insert(bytes.end(), start, start + segment.iov_len);
  }
}

}  // namespace

Balloon::Balloon(GuestMemory& memory, EventLoop& loop)
    : memory_(memory),
      // From the third on a queue may be for reports, which list free ranges of RAM, each once.
      limits_{{{kQueueSize, kMaxPageNumberBytes},
               {kQueueSize, kMaxPageNumberBytes},
               {kQueueSize, memory.size()},
               {kQueueSize, memory.size()},
               {kQueueSize, memory.size()}}},
      period_timer_(loop.make_timer([this] { on_period(); })) {}

std::uint32_t Balloon::type() const {
  return VIRTIO_ID_BALLOON;
}

std::uint64_t Balloon::offered_features() const {
  // Without PAGE_POISON, a guest for which the contents of free pages matter does not report them.
  return feature(VIRTIO_BALLOON_F_STATS_VQ) | feature(VIRTIO_BALLOON_F_DEFLATE_ON_OOM) |
         feature(VIRTIO_BALLOON_F_REPORTING);
}

std::vector<Counter> Balloon::counters() const {
  const MutexLock lock(mutex_);
  return {{"target_bytes", target_ * kBalloonPage}, {"actual_bytes", actual_ * kBalloonPage},
          {"inflated_pages", inflated_pages_},      {"deflated_pages", deflated_pages_},
          {"reported_bytes", reported_bytes_},      {"discard_errors", discard_errors_}};
}

Balloon::Role Balloon::role_of(unsigned index) const {
  // The specification numbers all queues there could be (5.5.2), Linux only those whose features
  // it has agreed to. As nobody agrees to FREE_PAGE_HINT, no number is ambiguous.
  if (index == 0) return Role::kInflate;
  if (index == 1) return Role::kDeflate;
  if (index == 2 && has_feature(VIRTIO_BALLOON_F_STATS_VQ)) return Role::kStatistics;
  return has_feature(VIRTIO_BALLOON_F_REPORTING) ? Role::kReporting : Role::kNone;
}

void Balloon::process(unsigned index) {
  switch (role_of(index)) {
    case Role::kInflate:
      drain(index, &Balloon::inflate);
      break;
    case Role::kDeflate:
      drain(index, &Balloon::deflate);
      break;
    case Role::kStatistics:
      read_statistics(*queue(index));
      break;
    case Role::kReporting:
      drain(index, &Balloon::report);
      break;
    case Role::kNone:
      break;
  }
}

void Balloon::drain(unsigned index, Handler handle) {
  Queue& requests = *queue(index);
  requests.disable_kicks();
  std::uint64_t pages = 0;
  unsigned count = 0;
  do {
    for (;;) {
      if (pages >= kPassPages || count == kPassRequests) {
        publish(requests);
        transport().process_again(index);
        return;
      }
      const auto popped = requests.pop(chain_);
      if (popped && !popped.value()) break;
      const auto cost = popped ? (this->*handle)() : Result<std::uint64_t>(popped.error());
      if (!cost) {
        publish(requests);
        transport().needs_reset(cost.error());
        return;
      }
      requests.push(chain_, 0);
      pages += cost.value();
      ++count;
    }
    // The driver waits for each request.
    publish(requests);
  } while (requests.enable_kicks());
}

// --- Pages ---

Result<> Balloon::read_page_numbers() {
  gather(chain_, bytes_);
  if (bytes_.size() % sizeof(PageNumber) != 0) {
    return fail(ErrorKind::kFailed, "{} bytes of page numbers", bytes_.size());
  }
  const std::uint64_t first = memory_.base_ipa() / kBalloonPage;
  const std::uint64_t pages = memory_.size() / kBalloonPage;
  ranges_.clear();
  for (std::size_t at = 0; at < bytes_.size(); at += sizeof(PageNumber)) {
    PageNumber number = 0;
    std::memcpy(&number, bytes_.data() + at, sizeof number);
    if (number < first || number - first >= pages) {
      return fail(ErrorKind::kFailed, "page {:#x} is not in RAM", number);
    }
    ranges_.push_back({(number - first) * kBalloonPage, kBalloonPage});
  }
  return success();
}

Result<std::uint64_t> Balloon::inflate() {
  TRY(read_page_numbers());
  const std::uint64_t pages = ranges_.size();
  inflated_pages_ += pages;
  discard_ranges();
  return pages;
}

Result<std::uint64_t> Balloon::deflate() {
  // Pages come back by being touched; only a wrong number is of interest.
  TRY(read_page_numbers());
  deflated_pages_ += ranges_.size();
  return ranges_.size();
}

Result<std::uint64_t> Balloon::report() {
  const auto* ram = memory_.regions()[0].bytes.data();
  ranges_.clear();
  for (const iovec& segment : chain_.writable()) {
    const auto* start = static_cast<const std::byte*>(segment.iov_base);
    ranges_.push_back({static_cast<std::uint64_t>(start - ram), segment.iov_len});
  }
  reported_bytes_ += chain_.writable_bytes();
  discard_ranges();
  return chain_.writable_bytes() / kBalloonPage;
}

void Balloon::discard_ranges() {
  std::ranges::sort(ranges_, {}, &Range::offset);
  const std::uint64_t granule = discard_granule();
  for (std::size_t next = 0; next < ranges_.size();) {
    // As few calls as possible: neighbours and duplicates make one run.
    const std::uint64_t start = ranges_[next].offset;
    std::uint64_t end = start;
    for (; next < ranges_.size() && ranges_[next].offset <= end; ++next) {
      end = std::max(end, ranges_[next].offset + ranges_[next].size);
    }
    // Pages of which only a part was given up stay.
    const std::uint64_t first = (start + granule - 1) / granule * granule;
    const std::uint64_t last = end / granule * granule;
    if (first >= last) continue;
    if (!memory_.discard(memory_.base_ipa() + first, last - first)) ++discard_errors_;
  }
}

// --- Statistics ---

// The driver leaves one buffer with statistics in the queue; to ask for new ones is to give it
// back (virtio 1.2, 5.5.6.3). Until then it stays in the ring, so that nothing is under way when
// the device is saved.
void Balloon::read_statistics(Queue& queue) {
  const auto popped = queue.pop(chain_);
  if (!popped) {
    transport().needs_reset(popped.error());
    return;
  }
  if (!popped.value()) return;
  queue.undo_pop();
  if (chain_.readable_bytes() > kMaxStatisticsBytes) {
    transport().needs_reset(
        make_error(ErrorKind::kFailed, "{} bytes of statistics", chain_.readable_bytes()));
    return;
  }
  gather(chain_, bytes_);
  BalloonStatistics statistics;
  virtio_balloon_stat one{};
  for (std::size_t at = 0; at + sizeof one <= bytes_.size(); at += sizeof one) {
    std::memcpy(&one, bytes_.data() + at, sizeof one);
    if (one.tag < statistics.size()) statistics[one.tag] = std::uint64_t{one.val};
  }
  statistics_ = statistics;
  ++statistics_updates_;
}

void Balloon::ask_for_statistics() {
  constexpr unsigned kIndex = 2;
  if (!active() || role_of(kIndex) != Role::kStatistics) return;
  Queue* answers = queue(kIndex);
  if (answers == nullptr) return;
  const auto popped = answers->pop(chain_);
  if (!popped) {
    transport().needs_reset(popped.error());
    return;
  }
  // Without a buffer, the guest is about to answer anyway.
  if (!popped.value()) return;
  answers->push(chain_, 0);
  const bool more = answers->enable_kicks();
  publish(*answers);
  if (more) transport().process_again(kIndex);
}

void Balloon::request_statistics() {
  const MutexLock lock(mutex_);
  ask_for_statistics();
}

void Balloon::set_statistics_period(std::chrono::seconds period) {
  {
    const MutexLock lock(mutex_);
    period_ = period;
  }
  if (period.count() == 0) {
    period_timer_->cancel();
  } else {
    period_timer_->expires_after(period);
  }
}

void Balloon::on_period() {
  std::chrono::seconds period{};
  {
    const MutexLock lock(mutex_);
    period = period_;
    ask_for_statistics();
  }
  if (period.count() != 0) period_timer_->expires_after(period);
}

Balloon::Status Balloon::status() const {
  const MutexLock lock(mutex_);
  return {.target = new_target_.value_or(target_) * kBalloonPage,
          .actual = actual_ * kBalloonPage,
          .statistics = statistics_,
          .statistics_updates = statistics_updates_};
}

// --- Target ---

void Balloon::set_target(std::uint64_t bytes) {
  const MutexLock lock(mutex_);
  new_target_ = static_cast<std::uint32_t>(std::min(bytes, memory_.size()) / kBalloonPage);
  if (!quiet_) apply_target();
}

void Balloon::apply_target() {
  const auto target = std::exchange(new_target_, std::nullopt);
  if (!target || *target == target_) return;
  target_ = *target;
  transport().notify_config();
}

void Balloon::read_config(std::uint64_t offset, std::span<std::byte> data) const {
  virtio_balloon_config config{};
  config.num_pages = target_;
  config.actual = actual_;
  copy_config(config, offset, data);
}

void Balloon::write_config(std::uint64_t offset, std::span<const std::byte> data) {
  // Linux writes whole fields.
  if (offset != offsetof(virtio_balloon_config, actual) || data.size() != sizeof actual_) return;
  std::memcpy(&actual_, data.data(), sizeof actual_);
}

// --- States ---

void Balloon::reset() {
  // The target is the host's wish and stays; the driver that knew the balloon's pages has gone.
  actual_ = 0;
  statistics_ = {};
}

void Balloon::quiesce() {
  quiet_ = true;
}

void Balloon::resume() {
  quiet_ = false;
  apply_target();
}

void Balloon::save_state(ByteWriter& writer) const {
  writer.put(kStateVersion);
  writer.put(target_);
  writer.put(actual_);
}

Result<> Balloon::restore_state(ByteReader& reader) {
  TRY(expect_state_version(reader, name(), kStateVersion));
  TRY(const auto target, reader.get<std::uint32_t>());
  if (target > memory_.size() / kBalloonPage) {
    return fail(bad_state_field(name(), "target", target));
  }
  TRY(const auto actual, reader.get<std::uint32_t>());
  TRY(reader.expect_end());
  target_ = target;
  actual_ = actual;
  return success();
}

}  // namespace vmm::virtio
