#pragma once

#include <boost/json/object.hpp>
#include <boost/json/value.hpp>

#include <chrono>
#include <filesystem>
#include <optional>
#include <string>

#include "base/fd.h"
#include "base/result.h"

namespace vmm {

// A connection to a guest's control socket. Blocking; for one thread.
class ControlClient {
 public:
  using Timeout = std::chrono::milliseconds;

  // Connects to the guest of that name, or to the only one running where name is empty. Error
  // (kNoSuchGuest) where there is none, or more than one to choose from.
  [[nodiscard]] static Result<ControlClient> connect(const std::string& name);
  // Connects to the guest behind a socket; error (kNoSuchGuest) where nobody listens.
  [[nodiscard]] static Result<ControlClient> connect_path(const std::filesystem::path& socket);

  // Sends a request and waits for its reply, at most for timeout where one is given.
  [[nodiscard]] Result<boost::json::value> call(std::string_view method,
                                                const boost::json::object& params = {},
                                                std::optional<Timeout> timeout = {});

  // Waits until the guest's process closes the connection, which it does when the guest ends, and
  // then for its own end: the guest's name, disks and memory are free. False where that took longer
  // than timeout.
  [[nodiscard]] Result<bool> wait_closed(Timeout timeout);

  // After a call of "console.attach": the descriptor of the byte stream, and what of it came with
  // the reply.
  [[nodiscard]] const Fd& fd() const { return fd_; }
  [[nodiscard]] const std::string& received() const { return received_; }

 private:
  explicit ControlClient(Fd fd) : fd_(std::move(fd)) {}

  // Waits for more bytes; false at the end of the stream.
  [[nodiscard]] Result<bool> receive(std::optional<std::chrono::steady_clock::time_point> deadline);
  // Refers to the guest's process (pidfd); invalid where that is this one, or cannot be seen.
  [[nodiscard]] Fd guest_process() const;
  [[nodiscard]] Result<std::string> read_line(std::optional<Timeout> timeout);

  Fd fd_;
  std::string received_;
};

}  // namespace vmm
