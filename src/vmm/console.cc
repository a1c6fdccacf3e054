#include "vmm/console.h"

#include <boost/asio/post.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <algorithm>
#include <array>

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

void Console::uart_has_space() {
  if (!feed_posted_.exchange(true)) boost::asio::post(loop_, [this] { feed_uart(); });
}

void Console::connect_uart(UartInput uart) {
  uart_ = std::move(uart);
  feed_uart();
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
  feed_uart();
}

boost::asio::awaitable<void> Console::input_space() {
  while (input_.size() >= kMaxInput) {
    boost::system::error_code cancelled;
    co_await input_drained_.async_wait(
        boost::asio::redirect_error(boost::asio::use_awaitable, cancelled));
  }
}

void Console::feed_uart() {
  feed_posted_ = false;
  if (!uart_) return;
  std::array<std::byte, Pl011::kFifoDepth> chunk{};
  while (!input_.empty()) {
    const auto size = std::min(chunk.size(), input_.size());
    std::copy_n(input_.begin(), size, chunk.begin());
    const auto taken = uart_(std::span(chunk).first(size));
    input_.erase(input_.begin(), input_.begin() + static_cast<std::ptrdiff_t>(taken));
    if (taken < size) break;
  }
  if (input_.size() < kMaxInput) input_drained_.cancel();
}

}  // namespace vmm
