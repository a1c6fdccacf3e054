#pragma once

#include <algorithm>
#include <array>
#include <condition_variable>
#include <cstring>
#include <memory>
#include <mutex>
#include <set>
#include <utility>
#include <vector>

#include "migration/tcp_channel.h"
#include "migration_faults.h"

namespace vmm::migration {

// Those that a source has.
class OpenChannels {
 public:
  void add(Channel& channel) {
    const std::lock_guard lock(mutex_);
    channels_.insert(&channel);
  }
  void remove(Channel& channel) {
    const std::lock_guard lock(mutex_);
    channels_.erase(&channel);
  }
  void interrupt() {
    const std::lock_guard lock(mutex_);
    for (auto* channel : channels_) channel->interrupt();
  }

 private:
  std::mutex mutex_;
  std::set<Channel*> channels_;
};

// A connection of the source that does to what passes over it what a plan says, both ways.
class FaultyChannel final : public Channel {
 public:
  FaultyChannel(std::unique_ptr<Channel> channel, FaultPlan& plan, OpenChannels& open)
      : channel_(std::move(channel)), plan_(plan), open_(open) {
    open_.add(*this);
  }
  ~FaultyChannel() override { open_.remove(*this); }

  [[nodiscard]] Result<> write(std::span<const iovec> parts) override {
    if (!kind_known_) {
      // Its kind follows magic and version.
      kind_ = static_cast<ConnectionKind>(static_cast<const std::byte*>(parts[0].iov_base)[12]);
      kind_known_ = true;
      return send(preamble_place(kind_), flat(parts));
    }
    if (swallows_) return success();
    if (kind_ != ConnectionKind::kData) {
      return send(message_place(true, static_cast<MessageType>(type_at(parts[0].iov_base)), kind_),
                  flat(parts));
    }
    if (!plan_.concerns(ConnectionKind::kData)) return channel_->write(parts);
    return send_records(flat(parts));
  }

  [[nodiscard]] Result<> read(std::span<const iovec> parts) override {
    for (const auto& part : parts) {
      auto* to = static_cast<std::byte*>(part.iov_base);
      for (std::size_t left = part.iov_len; left > 0;) {
        if (at_ == inbox_.size()) {
          TRY(receive());
        }
        const auto count = std::min(left, inbox_.size() - at_);
        std::memcpy(to, inbox_.data() + at_, count);
        at_ += count;
        to += count;
        left -= count;
      }
    }
    return success();
  }

  void set_timeout(std::chrono::milliseconds timeout) override {
    timeout_ = timeout;
    channel_->set_timeout(timeout);
  }
  void interrupt() override {
    channel_->interrupt();
    const std::lock_guard lock(mutex_);
    interrupted_ = true;
    changed_.notify_all();
  }
  [[nodiscard]] const std::string& peer() const override { return channel_->peer(); }

 private:
  using Then = FaultAction::Then;

  static std::uint32_t type_at(const void* at) {
    std::uint32_t type = 0;
    std::memcpy(&type, at, sizeof type);
    return type;
  }
  static std::vector<std::byte> flat(std::span<const iovec> parts) {
    std::vector<std::byte> bytes;
    for (const auto& part : parts) {
      const auto* data = static_cast<const std::byte*>(part.iov_base);
      bytes.insert(bytes.end(), data, data + part.iov_len);
    }
    return bytes;
  }
  Result<> write_bytes(std::span<const std::byte> bytes) {
    if (bytes.empty()) return success();
    const iovec part{.iov_base = const_cast<std::byte*>(bytes.data()), .iov_len = bytes.size()};
    return channel_->write(std::span(&part, 1));
  }
  Result<> read_bytes(std::span<std::byte> bytes) {
    if (bytes.empty()) return success();
    const iovec part{.iov_base = bytes.data(), .iov_len = bytes.size()};
    return channel_->read(std::span(&part, 1));
  }
  Result<> cut() {
    channel_->interrupt();
    return fail(ErrorKind::kMigration, "the cable was cut");
  }
  Result<> stall(const char* what) {
    std::unique_lock lock(mutex_);
    const auto timeout = timeout_.load();
    const auto over = [this] { return interrupted_; };
    if (timeout == kNoTimeout) {
      changed_.wait(lock, over);
    } else {
      changed_.wait_for(lock, timeout, over);
    }
    return fail(ErrorKind::kMigration, "{} {}", peer(), what);
  }

  Result<> send(const Place& place, std::vector<std::byte> bytes) {
    const auto fault = plan_.pass(place);
    if (!fault) return write_bytes(bytes);
    const auto action = act(place, *fault, std::move(bytes)).value();
    TRY(write_bytes(action.bytes));
    switch (action.then) {
      case Then::kGoOn:
        return success();
      case Then::kCut:
        return cut();
      case Then::kSwallow:
        swallows_ = true;
        return success();
      case Then::kBlock:
        return stall("took no data");
    }
    return success();
  }
  Result<> send_records(const std::vector<std::byte>& bytes) {
    for (std::size_t at = 0; at < bytes.size() && !swallows_;) {
      RecordHeader header{};
      std::memcpy(header.data(), bytes.data() + at, header.size());
      const auto record = decode_record(header, std::uint64_t{1} << 40).value();
      const auto* start = bytes.data() + at;
      at += header.size() + record.payload();
      TRY(send(record_place(record.type), {start, bytes.data() + at}));
    }
    return success();
  }

  // Takes the next piece in.
  Result<> receive() {
    if (ended_ == Then::kCut) return cut();
    if (ended_ != Then::kGoOn) return stall("sent nothing");
    const bool answer = !std::exchange(answered_, true);
    std::array<std::byte, std::max(kPreambleAnswerHeadBytes, kFrameHeaderBytes)> buffer{};
    const auto head =
        std::span(buffer).first(answer ? kPreambleAnswerHeadBytes : kFrameHeaderBytes);
    TRY(read_bytes(head));
    const auto length = type_at(head.last(sizeof(std::uint32_t)).data());
    // Something else may answer.
    std::vector<std::byte> bytes(head.size() + (answer && length > kMaxText ? 0 : length));
    std::ranges::copy(head, bytes.begin());
    TRY(read_bytes(std::span(bytes).subspan(head.size())));
    const auto place =
        answer ? answer_place(kind_)
               : message_place(false, static_cast<MessageType>(type_at(bytes.data())), kind_);
    at_ = 0;
    const auto fault = plan_.pass(place);
    if (!fault) {
      inbox_ = std::move(bytes);
      return success();
    }
    auto action = act(place, *fault, std::move(bytes)).value();
    inbox_ = std::move(action.bytes);
    ended_ = action.then;
    if (ended_ == Then::kCut) channel_->interrupt();
    return inbox_.empty() ? receive() : success();
  }

  const std::unique_ptr<Channel> channel_;
  FaultPlan& plan_;
  OpenChannels& open_;
  bool kind_known_ = false;
  ConnectionKind kind_ = ConnectionKind::kControl;
  std::atomic<bool> swallows_ = false;
  std::atomic<std::chrono::milliseconds> timeout_{};

  // Of who reads.
  bool answered_ = false;
  std::vector<std::byte> inbox_;
  std::size_t at_ = 0;
  Then ended_ = Then::kGoOn;

  std::mutex mutex_;
  std::condition_variable changed_;
  bool interrupted_ = false;
};

class FaultyConnector final : public Connector {
 public:
  FaultyConnector(TcpAddress address, FaultPlan& plan)
      : connector_(std::move(address)), plan_(plan) {}
  [[nodiscard]] Result<std::unique_ptr<Channel>> connect(
      std::chrono::milliseconds timeout) override {
    if (on_connect) on_connect();
    if (plan_.fired() && plan_.no_answers) return fail(ErrorKind::kMigration, "nobody is there");
    TRY(auto channel, connector_.connect(timeout));
    return std::unique_ptr<Channel>(
        std::make_unique<FaultyChannel>(std::move(channel), plan_, open_));
  }
  // All connections go.
  void cut() { open_.interrupt(); }

  std::function<void()> on_connect;

 private:
  TcpConnector connector_;
  FaultPlan& plan_;
  OpenChannels open_;
};

}  // namespace vmm::migration
