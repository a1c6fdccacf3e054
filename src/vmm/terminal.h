#pragma once

#include <boost/asio/awaitable.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>

#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "vmm/console.h"

namespace vmm {

// The key that leaves a console: Ctrl-].
inline constexpr std::byte kEscapeKey{0x1d};

// Puts the terminal on standard input, if it is one, into raw mode, and back when it goes, also
// when the process dies of a fatal signal that can be caught. One at a time.
class RawTerminal {
 public:
  [[nodiscard]] static Result<RawTerminal> enter();
  RawTerminal(RawTerminal&& other) noexcept : active_(std::exchange(other.active_, false)) {}
  RawTerminal& operator=(RawTerminal&&) = delete;
  ~RawTerminal();

 private:
  explicit RawTerminal(bool active) : active_(active) {}

  bool active_;
};

// Size of the terminal on standard input, or else output; nothing where neither is one.
[[nodiscard]] std::optional<TerminalSize> terminal_size();

// Writes console output to a descriptor (terminal, pipe, file) from the event loop, never blocking
// it: what cannot be written at once is queued, and beyond 1 MiB dropped.
class FdOutput final : public ConsoleListener {
 public:
  // Duplicates the descriptor.
  [[nodiscard]] static Result<std::unique_ptr<FdOutput>> open(boost::asio::io_context& loop,
                                                              int fd);

  void console_output(std::span<const std::byte> bytes) override;

  // Writes what is queued as far as that goes without waiting.
  void drain();

 private:
  FdOutput(boost::asio::io_context& loop, Fd fd, std::optional<Fd> writable, std::size_t chunk);
  void wait();

  Fd fd_;
  boost::asio::posix::stream_descriptor writable_;  // readable when fd_ takes bytes
  const bool always_ready_;                         // a regular file, which cannot be waited for
  const std::size_t chunk_;  // bytes that a ready descriptor takes without blocking
  std::vector<std::byte> queue_;
  bool waiting_ = false;
  bool broken_ = false;
};

// Reads standard input on the event loop until its end or kEscapeKey. on_input gets the bytes;
// ready is awaited before each read. Returns true where the escape key ended it.
[[nodiscard]] boost::asio::awaitable<bool> read_terminal(
    std::function<void(std::span<const std::byte>)> on_input,
    std::function<boost::asio::awaitable<void>()> ready);

}  // namespace vmm
