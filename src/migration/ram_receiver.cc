#include "migration/ram_receiver.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "migration/tcp_socket.h"

namespace vmm::migration {
namespace {

// Zeros of at least a huge page are had by giving the memory back, less by writing them.
constexpr std::uint64_t kGiveBackPages = (std::uint64_t{2} << 20) / kPageSize;

// Calls visit(PageRange) for the runs of set bits within a range.
template <typename Visit>
Result<> for_each_set(const DirtyBitmap& bitmap, PageRange range, Visit visit) {
  const std::uint64_t end = range.first + range.count;
  PageRange run{range.first, 0};
  for (std::uint64_t page = range.first; page < end;) {
    const std::uint64_t bits = bitmap.word(page / kPagesPerWord) >> page % kPagesPerWord;
    if (bits == 0 && run.count == 0) {
      page += kPagesPerWord - page % kPagesPerWord;
      continue;
    }
    if ((bits & 1) != 0) {
      if (run.count++ == 0) run.first = page;
    } else if (run.count > 0) {
      TRY(visit(std::exchange(run, PageRange{})));
    }
    ++page;
  }
  return run.count > 0 ? visit(run) : success();
}

}  // namespace

RamReceiver::RamReceiver(GuestMemory& memory, std::vector<std::unique_ptr<Channel>> channels,
                         Events events)
    : memory_(memory),
      events_(std::move(events)),
      received_(memory.size() / kPageSize),
      channels_(std::move(channels)) {
  if (channels_.empty()) std::abort();
  for (const auto& channel : channels_) channel->set_timeout(kNoTimeout);
  for (const auto& channel : channels_) {
    threads_.emplace_back([this, &channel = *channel] { work(channel); });
  }
}

RamReceiver::~RamReceiver() {
  stop();
}

void RamReceiver::interrupt() {
  auto error = make_error(ErrorKind::kMigration, "receiving guest memory was interrupted");
  if (fail_all(error)) events_.failed(error);
}

Result<> RamReceiver::finish() {
  stop();
  const MutexLock lock(mutex_);
  if (error_) return fail(*error_);
  return success();
}

void RamReceiver::stop() {
  {
    const MutexLock lock(mutex_);
    stopped_ = true;
    changed_.notify_all();
  }
  for (const auto& channel : channels_) channel->interrupt();
  for (auto& thread : threads_) thread.join();
  threads_.clear();
}

void RamReceiver::work(Channel& channel) {
  auto received = receive_records(channel);
  if (received) return;
  const Error error = std::move(received).error();
  if (fail_all(error)) events_.failed(error);
}

Result<> RamReceiver::receive_records(Channel& channel) {
  RecordHeader header{};
  const iovec header_part{.iov_base = header.data(), .iov_len = header.size()};
  TRY(channel.read(std::span(&header_part, 1)));
  for (;;) {
    const auto record = decode_record(header, received_.pages());
    if (!record) {
      return fail(ErrorKind::kMigration, "{} sent a record that is wrong: {}", channel.peer(),
                  record.error().message());
    }
    const auto& [type, range, round] = record.value();
    if (type == RecordType::kRoundEnd) {
      TRY(end_round(round, channel));
    }
    if (type == RecordType::kZero || type == RecordType::kHole) {
      TRY(make_zero(range, type == RecordType::kHole));
    }
    if (type != RecordType::kPages) {
      TRY(channel.read(std::span(&header_part, 1)));
      continue;
    }
    // Something always follows pages, so the next header is read with them.
    TRY(const auto bytes,
        memory_.slice(memory_.base_ipa() + range.first * kPageSize, record.value().payload()));
    const std::array parts{iovec{.iov_base = bytes.data(), .iov_len = bytes.size()}, header_part};
    TRY(channel.read(parts));
    received_.set_range(range);
    bytes_ += bytes.size();
  }
}

// Pages that never came are zero already, and stay untouched.
Result<> RamReceiver::make_zero(PageRange range, bool give_back) {
  return for_each_set(received_, range, [&](PageRange run) -> Result<> {
    const std::uint64_t ipa = memory_.base_ipa() + run.first * kPageSize;
    const std::uint64_t size = run.count * kPageSize;
    // The host keeps parts of hugetlb pages as they are when they are given back.
    if ((give_back || run.count >= kGiveBackPages) && memory_.backing() == Backing::kAnonymous) {
      return memory_.discard(ipa, size);
    }
    TRY(const auto bytes, memory_.slice(ipa, size));
    std::memset(bytes.data(), 0, bytes.size());
    return success();
  });
}

Result<> RamReceiver::end_round(std::uint32_t round, const Channel& channel) {
  {
    const MutexLock lock(mutex_);
    if (round != round_) {
      return fail(ErrorKind::kMigration, "{} ended round {} while round {} is under way",
                  channel.peer(), round, round_);
    }
    if (++arrived_ < channels_.size()) {
      while (round_ == round && !stopped_ && !error_) changed_.wait(mutex_);
      return success();
    }
  }
  events_.round_complete(round);
  const MutexLock lock(mutex_);
  arrived_ = 0;
  ++round_;
  changed_.notify_all();
  return success();
}

bool RamReceiver::fail_all(Error error) {
  {
    const MutexLock lock(mutex_);
    if (stopped_ || error_) return false;
    error_ = std::move(error);
    changed_.notify_all();
  }
  for (const auto& channel : channels_) channel->interrupt();
  return true;
}

}  // namespace vmm::migration
