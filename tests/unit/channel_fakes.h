#pragma once

#include <algorithm>
#include <array>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <future>
#include <limits>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "migration/ram_record.h"
#include "migration/tcp_channel.h"

namespace vmm::migration {

// Far longer than anything here takes: only what never ends runs into it.
inline constexpr std::chrono::seconds kLong{60};

// A channel that reads what a test has laid out and keeps what is written.
class ScriptedChannel final : public Channel {
 public:
  explicit ScriptedChannel(std::vector<std::byte> input = {}) : input_(std::move(input)) {}

  [[nodiscard]] Result<> write(std::span<const iovec> parts) override {
    const std::lock_guard lock(mutex_);
    ++writes_;
    for (const auto& part : parts) {
      if (interrupted_) return fail(ErrorKind::kMigration, "interrupted");
      const auto* data = static_cast<const std::byte*>(part.iov_base);
      const auto count = std::min(part.iov_len, room_);
      written_.insert(written_.end(), data, data + count);
      room_ -= count;
      if (count < part.iov_len) return fail(ErrorKind::kMigration, "{} is full", peer_);
    }
    return success();
  }
  // At the end of the input the peer is silent, or has closed.
  [[nodiscard]] Result<> read(std::span<const iovec> parts) override {
    std::unique_lock lock(mutex_);
    for (const auto& part : parts) {
      const auto count = std::min(part.iov_len, input_.size() - at_);
      if (count > 0) std::memcpy(part.iov_base, input_.data() + at_, count);
      at_ += count;
      if (count == part.iov_len) continue;
      if (!closes_) changed_.wait(lock, [this] { return interrupted_; });
      return fail(ErrorKind::kMigration, "{} closed", peer_);
    }
    return success();
  }
  void set_timeout(std::chrono::milliseconds /*timeout*/) override {}
  void interrupt() override {
    const std::lock_guard lock(mutex_);
    interrupted_ = true;
    changed_.notify_all();
  }
  [[nodiscard]] const std::string& peer() const override { return peer_; }

  void close_at_end() { closes_ = true; }
  // Writes fail after so many bytes.
  void fail_after(std::size_t bytes) { room_ = bytes; }
  [[nodiscard]] std::vector<std::byte> written() {
    const std::lock_guard lock(mutex_);
    return written_;
  }
  // How many calls that took.
  [[nodiscard]] int writes() {
    const std::lock_guard lock(mutex_);
    return writes_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::string peer_ = "peer";
  std::vector<std::byte> input_;
  std::vector<std::byte> written_;
  int writes_ = 0;
  std::size_t at_ = 0;
  std::size_t room_ = std::numeric_limits<std::size_t>::max();
  bool closes_ = false;
  bool interrupted_ = false;
};

using Channels = std::vector<std::unique_ptr<Channel>>;

// Both ends of connections over loopback.
struct TcpPairs {
  explicit TcpPairs(int count) {
    auto listener = TcpListener::listen({"127.0.0.1", 0}).value();
    for (int i = 0; i < count; ++i) {
      ours.push_back(std::make_unique<TcpChannel>(tcp_connect(listener.address(), kLong).value()));
      theirs.push_back(std::make_unique<TcpChannel>(listener.accept(kLong).value()));
    }
  }
  Channels ours;
  Channels theirs;
};

inline Result<> write_bytes(Channel& channel, std::span<const std::byte> bytes) {
  const iovec part{.iov_base = const_cast<std::byte*>(bytes.data()), .iov_len = bytes.size()};
  return channel.write(std::span(&part, 1));
}
inline Result<> read_bytes(Channel& channel, std::span<std::byte> bytes) {
  const iovec part{.iov_base = bytes.data(), .iov_len = bytes.size()};
  return channel.read(std::span(&part, 1));
}

}  // namespace vmm::migration
