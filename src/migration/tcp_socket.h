#pragma once

#include <sys/uio.h>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/result.h"

namespace vmm::migration {

// No limit to how long an operation may make no progress.
inline constexpr std::chrono::milliseconds kNoTimeout = std::chrono::milliseconds::max();

// What is left of a transfer of several parts.
class IovCursor {
 public:
  // Goes over `parts` from the start; empty ones are left out.
  void assign(std::span<const iovec> parts);
  [[nodiscard]] bool done() const { return at_ == parts_.size(); }
  [[nodiscard]] std::span<const iovec> rest() const { return std::span(parts_).subspan(at_); }
  // Bytes left.
  [[nodiscard]] std::size_t bytes() const { return bytes_; }
  // Makes `parts` the first `count` bytes of the rest; no more than are left.
  void first(std::size_t count, std::vector<iovec>& parts) const;
  // `count` bytes were transferred; no more than are left.
  void advance(std::size_t count);

 private:
  std::vector<iovec> parts_;
  std::size_t at_ = 0;
  std::size_t bytes_ = 0;
};

// A connected TCP socket that waits with a timeout and can be interrupted: what channels over TCP,
// plain or encrypted, have in common. One thread may send while another receives; interrupt() and
// set_timeout() from any. Errors are of kind kMigration and name the peer.
class TcpSocket {
 public:
  // Takes a connected socket and sets it up: no delay of small writes, and keepalive probes and a
  // user timeout, so that a link that was cut is noticed within the timeout.
  TcpSocket(Fd fd, std::string peer, std::chrono::milliseconds timeout);

  // Sends or receives what fits at once, at least one byte, waiting for that up to the timeout.
  // `parts` is not empty and has no empty part. `more` says that more is to be sent at once, so
  // that a packet need not go out before it is full.
  [[nodiscard]] Result<std::size_t> send_some(std::span<const iovec> parts, bool more = false);
  [[nodiscard]] Result<std::size_t> receive_some(std::span<const iovec> parts);

  // Sends all of a part by reference: its pages are read when they go out to the network, or are
  // sent again. Threads that call this block or ignore SIGPIPE, which a peer that is gone raises:
  // splice(2) has no MSG_NOSIGNAL.
  [[nodiscard]] Result<> send_referred(iovec part, bool more);

  // Receives what is there already, without waiting; 0 where that is nothing.
  [[nodiscard]] Result<std::size_t> try_receive(std::span<const iovec> parts);
  // Waits until something can be received, or the connection has ended, up to `timeout`.
  [[nodiscard]] Result<> wait_to_receive(std::chrono::milliseconds timeout);

  // As Channel's.
  void set_timeout(std::chrono::milliseconds timeout);
  [[nodiscard]] std::chrono::milliseconds timeout() const { return timeout_; }
  void interrupt();
  [[nodiscard]] const std::string& peer() const { return peer_; }

 private:
  [[nodiscard]] Result<> make_pipe();
  [[nodiscard]] Result<> splice_pipe(std::size_t bytes, bool more);
  [[nodiscard]] Result<> wait(short events, std::chrono::milliseconds timeout);
  // Error of an operation that failed with an errno, or 0 for the end of the stream.
  [[nodiscard]] Error lost(int system_errno) const;

  Fd fd_;
  // Pages on their way from memory to the socket; made when first needed, empty between two calls.
  Fd pipe_out_;
  Fd pipe_in_;
  std::string peer_;
  std::atomic<std::chrono::milliseconds> timeout_;
  std::atomic<bool> interrupted_ = false;
};

}  // namespace vmm::migration
