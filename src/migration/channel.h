#pragma once

#include <sys/uio.h>

#include <chrono>
#include <cstddef>
#include <memory>
#include <span>
#include <string>

#include "base/result.h"

namespace vmm::migration {

// A reliable, ordered stream of bytes to the peer. One thread may read while another writes;
// interrupt() may be called from any thread at any time. After an error the channel is of no use.
class Channel {
 public:
  Channel() = default;
  Channel(const Channel&) = delete;
  Channel& operator=(const Channel&) = delete;
  virtual ~Channel() = default;

  // Writes all parts, in order, straight from where they lie. Error where the peer takes nothing
  // for longer than the timeout, or is gone.
  [[nodiscard]] virtual Result<> write(std::span<const iovec> parts) = 0;
  // As write(), for memory that others may write to meanwhile, and that stays mapped until the call
  // returns: parts of kReferredBytes or more may be read later, until the peer has them. What then
  // arrives is what they hold at some moment from the call on. Smaller parts are read before it
  // returns. The calling thread blocks or ignores SIGPIPE.
  [[nodiscard]] virtual Result<> write_live(std::span<const iovec> parts) { return write(parts); }
  static constexpr std::size_t kReferredBytes = 64 << 10;
  // Fills all parts. Error where nothing comes for longer than the timeout, or the peer is gone.
  [[nodiscard]] virtual Result<> read(std::span<const iovec> parts) = 0;

  // How long an operation may make no progress at all before it fails. Applies from the next
  // operation on.
  virtual void set_timeout(std::chrono::milliseconds timeout) = 0;
  // Makes every operation, now and later, fail soon.
  virtual void interrupt() = 0;

  // "192.0.2.7:4444", for messages.
  [[nodiscard]] virtual const std::string& peer() const = 0;
};

// Where more channels to the same peer come from.
class Connector {
 public:
  virtual ~Connector() = default;
  // Error (kMigration) where the peer does not answer within the timeout.
  [[nodiscard]] virtual Result<std::unique_ptr<Channel>> connect(
      std::chrono::milliseconds timeout) = 0;
};

// Where channels come from that peers open.
class Acceptor {
 public:
  virtual ~Acceptor() = default;
  // Waits for the next one, for as long as it takes; it starts with `timeout`. Error after
  // interrupt(), or where the host cannot take another one now.
  [[nodiscard]] virtual Result<std::unique_ptr<Channel>> accept(
      std::chrono::milliseconds timeout) = 0;
  // Makes accept() fail, now and later. Threads: any.
  virtual void interrupt() = 0;
};

}  // namespace vmm::migration
