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
#include <optional>
#include <span>
#include <vector>

#include "devices/serial_sink.h"

namespace vmm {

// Takes console output on the event loop; must not block.
class ConsoleListener {
 public:
  virtual ~ConsoleListener() = default;
  virtual void console_output(std::span<const std::byte> bytes) = 0;
};

// In characters; 0 is unknown.
struct TerminalSize {
  std::uint16_t cols = 0;
  std::uint16_t rows = 0;
  [[nodiscard]] bool operator==(const TerminalSize&) const = default;
};

// What is at the other end of a guest's serial port or virtio console: output of the device goes to
// any number of listeners, input from them to the device. It outlives the machine, so that a reboot
// does not cut anybody off.
//
// Threads: write() and device_has_space() from any; everything else from the event loop.
class Console final : public SerialSink {
 public:
  // Input for the device: returns how many bytes it took.
  using DeviceInput = std::function<std::size_t(std::span<const std::byte>)>;
  using DeviceResize = std::function<void(TerminalSize)>;

  explicit Console(boost::asio::io_context& loop);

  // Output of the guest; what comes faster than the listeners take it is dropped and counted.
  void write(std::span<const std::byte> bytes) override;
  // The device may take bytes again.
  void device_has_space();

  // Connects the device of a new machine; an empty function disconnects. resize is called with the
  // size of the terminal once it is known, and when it changes.
  void connect_device(DeviceInput input, DeviceResize resize = {});

  // The listener gets the most recent output first. Detach before it goes.
  void attach(ConsoleListener& listener);
  void detach(ConsoleListener& listener);

  // Queues bytes for the guest. Whoever reads them from somewhere waits for input_space() before
  // reading more, so that a guest that does not listen holds up the sender and loses nothing.
  void input(std::span<const std::byte> bytes);
  [[nodiscard]] boost::asio::awaitable<void> input_space();

  // The size of whose terminal has changed last is that of the console.
  void resize(TerminalSize size);

  // Hands all output written so far to the listeners.
  void flush();

  [[nodiscard]] std::uint64_t output_bytes() const { return output_bytes_; }
  [[nodiscard]] std::uint64_t dropped_bytes() const { return dropped_bytes_; }

 private:
  [[nodiscard]] std::size_t input_size() const { return input_.size() - input_start_; }
  void feed_device();

  boost::asio::io_context& loop_;
  std::mutex mutex_;
  std::vector<std::byte> pending_;  // under mutex_; output not yet seen by the event loop
  std::atomic<std::uint64_t> output_bytes_{0};
  std::atomic<std::uint64_t> dropped_bytes_{0};
  std::atomic<bool> feed_posted_{false};

  std::vector<ConsoleListener*> listeners_;
  std::deque<std::byte> history_;
  DeviceInput device_input_;
  DeviceResize device_resize_;
  std::optional<TerminalSize> size_;
  std::vector<std::byte> input_;
  std::size_t input_start_ = 0;              // what lies before is the device's already
  boost::asio::steady_timer input_drained_;  // never expires; cancelled when there is space
};

}  // namespace vmm
