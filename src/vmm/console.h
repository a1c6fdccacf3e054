#pragma once

#include <boost/asio/awaitable.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <span>
#include <vector>

#include "devices/pl011.h"

namespace vmm {

// Takes console output on the event loop; must not block.
class ConsoleListener {
 public:
  virtual ~ConsoleListener() = default;
  virtual void console_output(std::span<const std::byte> bytes) = 0;
};

// The guest's serial console: output from vCPU threads goes to any number of listeners, input from
// them to the UART. It outlives the machine, so that a reboot does not cut anybody off.
//
// Threads: write() and uart_has_space() from any; everything else from the event loop.
class Console final : public SerialSink {
 public:
  // Input for the UART: returns how many bytes it took.
  using UartInput = std::function<std::size_t(std::span<const std::byte>)>;

  explicit Console(boost::asio::io_context& loop);

  // Output of the guest; what comes faster than the listeners take it is dropped and counted.
  void write(std::span<const std::byte> bytes) override;
  // The UART may take bytes again.
  void uart_has_space();

  // Connects the UART of a new machine; an empty function disconnects.
  void connect_uart(UartInput uart);

  // The listener gets the most recent output first. Detach before it goes.
  void attach(ConsoleListener& listener);
  void detach(ConsoleListener& listener);

  // Queues bytes for the guest. Whoever reads them from somewhere waits for input_space() before
  // reading more, so that a guest that does not listen holds up the sender and loses nothing.
  void input(std::span<const std::byte> bytes);
  [[nodiscard]] boost::asio::awaitable<void> input_space();

  // Hands all output written so far to the listeners.
  void flush();

  [[nodiscard]] std::uint64_t output_bytes() const { return output_bytes_; }
  [[nodiscard]] std::uint64_t dropped_bytes() const { return dropped_bytes_; }

 private:
  void feed_uart();

  boost::asio::io_context& loop_;
  std::mutex mutex_;
  std::vector<std::byte> pending_;  // under mutex_; output not yet seen by the event loop
  std::atomic<std::uint64_t> output_bytes_{0};
  std::atomic<std::uint64_t> dropped_bytes_{0};
  std::atomic<bool> feed_posted_{false};

  std::vector<ConsoleListener*> listeners_;
  std::deque<std::byte> history_;
  UartInput uart_;
  std::deque<std::byte> input_;
  boost::asio::steady_timer input_drained_;  // never expires; cancelled when there is space
};

}  // namespace vmm
