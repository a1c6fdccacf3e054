#include "vmm/console.h"

#include <boost/asio/post.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <algorithm>

namespace vmm {
namespace {

constexpr std::size_t kMaxPending = 256 * 1024;
constexpr std::size_t kHistory = 16 * 1024;
constexpr std::size_t kMaxInput = 64 * 1024;

}  // namespace

Console::Console(boost::asio::io_context& loop)
    : loop_(loop), input_drained_(loop, boost::asio::steady_timer::time_point::max()) {}

void Console::write(std::span<const std::byte> bytes) {
  bool was_empty = false;
  {
    const std::lock_guard lock(mutex_);
    was_empty = pending_.empty();
    const auto room = std::min(bytes.size(), kMaxPending - pending_.size());
    pending_.insert(pending_.end(), bytes.begin(),
                    bytes.begin() + static_cast<std::ptrdiff_t>(room));
    output_bytes_ += room;
    dropped_bytes_ += bytes.size() - room;
  }
  // One wake-up for all bytes that gather until the loop gets to them.
  if (was_empty) boost::asio::post(loop_, [this] { flush(); });
}

void Console::flush() {
  std::vector<std::byte> output;
  {
    const std::lock_guard lock(mutex_);
    output.swap(pending_);
  }
  if (output.empty()) return;
  for (ConsoleListener* listener : listeners_) listener->console_output(output);
  history_.insert(history_.end(), output.begin(), output.end());
  if (history_.size() > kHistory) {
    history_.erase(history_.begin(),
                   history_.begin() + static_cast<std::ptrdiff_t>(history_.size() - kHistory));
  }
}

void Console::device_has_space() {
  if (!feed_posted_.exchange(true)) boost::asio::post(loop_, [this] { feed_device(); });
}

void Console::connect_device(DeviceInput input, DeviceResize resize) {
  device_input_ = std::move(input);
  device_resize_ = std::move(resize);
  if (size_ && device_resize_) device_resize_(*size_);
  feed_device();
}

void Console::resize(TerminalSize size) {
  size_ = size;
  if (device_resize_) device_resize_(size);
}

void Console::attach(ConsoleListener& listener) {
  flush();
  const std::vector<std::byte> recent(history_.begin(), history_.end());
  if (!recent.empty()) listener.console_output(recent);
  listeners_.push_back(&listener);
}

void Console::detach(ConsoleListener& listener) {
  std::erase(listeners_, &listener);
}

void Console::input(std::span<const std::byte> bytes) {
  input_.insert(input_.end(), bytes.begin(), bytes.end());
  feed_device();
}

boost::asio::awaitable<void> Console::input_space() {
  while (input_size() >= kMaxInput) {
    boost::system::error_code cancelled;
    co_await input_drained_.async_wait(
        boost::asio::redirect_error(boost::asio::use_awaitable, cancelled));
  }
}

void Console::feed_device() {
  feed_posted_ = false;
  if (!device_input_) return;
  if (input_size() != 0) input_start_ += device_input_(std::span(input_).subspan(input_start_));
  // Not for every byte: what has gone is cut off when it is half of all there is.
  if (input_start_ >= input_size()) {
    input_.erase(input_.begin(), input_.begin() + static_cast<std::ptrdiff_t>(input_start_));
    input_start_ = 0;
  }
  if (input_size() < kMaxInput) input_drained_.cancel();
}

}  // namespace vmm
