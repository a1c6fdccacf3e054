#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <condition_variable>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "migration/messages.h"
#include "migration/tcp_channel.h"

namespace vmm::migration {

// What happens to a message of the control connection.
enum class Fault {
  kCut,       // the connection goes before it is passed on
  kCutAfter,  // and right after
  kGarbage,   // something else comes instead
  kStall,     // it and what follows never comes, while the connection stays
};

// What goes wrong on the source's control connection, and what went over it. Messages of each
// direction are numbered from 0; heartbeats are not counted.
class FaultPlan {
 public:
  struct At {
    bool outgoing = true;
    std::size_t number = 0;
    std::optional<MessageType> type;  // the first of that type, rather than by number
    Fault fault = Fault::kCut;
  };

  explicit FaultPlan(std::optional<At> at = std::nullopt) : at_(at) {}

  // The fault of the message that is about to pass.
  [[nodiscard]] std::optional<Fault> pass(bool outgoing, std::uint32_t type) {
    const auto message = static_cast<MessageType>(type);
    if (on_message) on_message(outgoing, message);
    const std::lock_guard lock(mutex_);
    auto& seen = outgoing ? sent_ : received_;
    seen.push_back(message);
    if (!at_ || fired_ || at_->outgoing != outgoing) return std::nullopt;
    if (at_->type ? *at_->type != message : at_->number + 1 != seen.size()) return std::nullopt;
    fired_ = true;
    return at_->fault;
  }
  [[nodiscard]] bool fired() const { return fired_; }
  [[nodiscard]] std::vector<MessageType> sent() {
    const std::lock_guard lock(mutex_);
    return sent_;
  }

  // Called before each message passes.
  std::function<void(bool outgoing, MessageType type)> on_message;
  // Nobody answers queries.
  std::atomic<bool> no_answers = false;

 private:
  std::mutex mutex_;
  const std::optional<At> at_;
  std::atomic<bool> fired_ = false;
  std::vector<MessageType> sent_;
  std::vector<MessageType> received_;
};

// A channel that does to a control connection what a plan says. Other connections pass unharmed.
class FaultyChannel final : public Channel {
 public:
  FaultyChannel(std::unique_ptr<Channel> channel, FaultPlan& plan)
      : channel_(std::move(channel)), plan_(plan) {}

  [[nodiscard]] Result<> write(std::span<const iovec> parts) override {
    if (!introduced_) {
      introduced_ = true;
      // Its kind follows magic and version.
      control_ = static_cast<const std::byte*>(parts[0].iov_base)[12] ==
                 static_cast<std::byte>(ConnectionKind::kControl);
      return channel_->write(parts);
    }
    if (swallows_) return success();
    const auto type = control_ ? type_at(parts[0]) : kHeartbeat;
    if (type == kHeartbeat) return channel_->write(parts);
    const auto fault = plan_.pass(true, type);
    if (!fault) return channel_->write(parts);
    switch (*fault) {
      case Fault::kCut:
        return cut();
      case Fault::kCutAfter: {
        TRY(channel_->write(parts));
        return cut();
      }
      case Fault::kGarbage: {
        std::array<std::byte, 8> nonsense{};
        nonsense.fill(std::byte{0xee});
        const iovec part{.iov_base = nonsense.data(), .iov_len = nonsense.size()};
        return channel_->write(std::span(&part, 1));
      }
      case Fault::kStall:
        swallows_ = true;
        return success();
    }
    return success();
  }

  [[nodiscard]] Result<> read(std::span<const iovec> parts) override {
    auto result = channel_->read(parts);
    if (!result || !control_) return result;
    // The answer to the preamble, then frames: a header, and a payload where there is one.
    if (answer_left_ > 0) {
      answer_left_ -= std::min(answer_left_, parts[0].iov_len);
      return result;
    }
    if (std::exchange(in_payload_, false)) return result;
    std::uint32_t length = 0;
    std::memcpy(&length, static_cast<std::byte*>(parts[0].iov_base) + 4, sizeof length);
    in_payload_ = length > 0;
    const auto type = type_at(parts[0]);
    if (type == kHeartbeat) return result;
    const auto fault = plan_.pass(false, type);
    if (!fault) return result;
    switch (*fault) {
      case Fault::kCut:
      case Fault::kCutAfter:
        return cut();
      case Fault::kGarbage:
        std::memset(parts[0].iov_base, 0xee, parts[0].iov_len);
        return result;
      case Fault::kStall:
        return stall();
    }
    return result;
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
  static constexpr auto kHeartbeat = static_cast<std::uint32_t>(MessageType::kHeartbeat);

  static std::uint32_t type_at(const iovec& part) {
    std::uint32_t type = 0;
    std::memcpy(&type, part.iov_base, sizeof type);
    return type;
  }
  Result<> cut() {
    channel_->interrupt();
    return fail(ErrorKind::kMigration, "the cable was cut");
  }
  Result<> stall() {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, timeout_.load(), [this] { return interrupted_; });
    return fail(ErrorKind::kMigration, "{} sent nothing", peer());
  }

  std::unique_ptr<Channel> channel_;
  FaultPlan& plan_;
  bool introduced_ = false;
  std::atomic<bool> control_ = false;
  std::size_t answer_left_ = kPreambleAnswerHeadBytes;
  bool in_payload_ = false;
  std::atomic<bool> swallows_ = false;
  std::atomic<std::chrono::milliseconds> timeout_{};
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
    return std::unique_ptr<Channel>(std::make_unique<FaultyChannel>(std::move(channel), plan_));
  }

  std::function<void()> on_connect;

 private:
  TcpConnector connector_;
  FaultPlan& plan_;
};

}  // namespace vmm::migration
