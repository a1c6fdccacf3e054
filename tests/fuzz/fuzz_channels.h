#pragma once

#include <condition_variable>
#include <cstddef>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "fuzz.h"
#include "migration/channel.h"

// Connections whose other end is the input.
namespace vmm::fuzz {

// How long the channels of one run may all rest before the peer is taken to have said everything.
inline constexpr std::chrono::milliseconds kQuiet{4};

// What the channels of one run share: when something last happened on one of them, and how many
// there are.
class Wire {
 public:
  // Something was read or written.
  void happened() {
    const std::lock_guard lock(mutex_);
    last_ = std::chrono::steady_clock::now();
  }
  // Waits until nothing happens any more, or `over` says so.
  template <typename Over>
  void wait_until_quiet(Over over) {
    std::unique_lock lock(mutex_);
    while (!over() && std::chrono::steady_clock::now() < last_ + kQuiet) {
      changed_.wait_until(lock, last_ + kQuiet);
    }
  }
  // Waits for as long as it takes.
  template <typename Over>
  void wait(Over over) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, over);
  }
  void wake() {
    const std::lock_guard lock(mutex_);
    changed_.notify_all();
  }
  // Changes something that somebody waits for.
  template <typename Change>
  void change(Change change) {
    const std::lock_guard lock(mutex_);
    change();
    changed_.notify_all();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
};

// Reads what the peer has in store, and shows what is written to it. At the end of that the peer
// closes once all is quiet, or says nothing until it is interrupted.
class InputChannel : public migration::Channel {
 public:
  InputChannel(Wire& wire, std::vector<std::byte> input, bool closes)
      : wire_(wire), input_(std::move(input)), closes_(closes) {}

  [[nodiscard]] Result<> write(std::span<const iovec> parts) override {
    if (interrupted_) return fail(ErrorKind::kMigration, "interrupted");
    wire_.happened();
    std::vector<std::byte> bytes;
    for (const auto& part : parts) {
      const auto* data = static_cast<const std::byte*>(part.iov_base);
      bytes.insert(bytes.end(), data, data + part.iov_len);
    }
    written(bytes);
    return success();
  }
  [[nodiscard]] Result<> read(std::span<const iovec> parts) override {
    prepare();
    for (const auto& part : parts) {
      const auto count = std::min(part.iov_len, input_.size() - at_);
      if (count > 0) std::memcpy(part.iov_base, input_.data() + at_, count);
      at_ += count;
      if (count == part.iov_len) continue;
      const auto over = [this] { return interrupted_.load(); };
      if (closes_) {
        wire_.wait_until_quiet(over);
      } else {
        wire_.wait(over);
      }
      return fail(ErrorKind::kMigration, "{} closed", peer_);
    }
    wire_.happened();
    return success();
  }
  void set_timeout(std::chrono::milliseconds /*timeout*/) override {}
  void interrupt() override {
    interrupted_ = true;
    wire_.wake();
  }
  [[nodiscard]] const std::string& peer() const override { return peer_; }

 protected:
  // Of one write, by one thread at a time.
  virtual void written(std::span<const std::byte> /*bytes*/) {}
  // Before each read.
  virtual void prepare() {}

  Wire& wire_;
  std::vector<std::byte> input_;

 private:
  const bool closes_;
  const std::string peer_ = "peer";
  std::size_t at_ = 0;
  std::atomic<bool> interrupted_ = false;
};

// An error as people get to see it.
inline void check_error(const Error& error) {
  const auto printable = [](char c) { return c >= ' ' && c <= '~'; };
  check(!error.message().empty() && std::ranges::all_of(error.message(), printable),
        "an error is one line of printable text");
}

}  // namespace vmm::fuzz
