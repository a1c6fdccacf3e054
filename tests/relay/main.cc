// Relays the connections of a migration in clear text, and runs a command at the first message of a
// type: before it is passed on, or once the other side has acknowledged its bytes.
//
//   migration_relay PORT ADDRESS ADDRESS-PORT [TYPE before|after COMMAND]
//
// TYPE is the number of the message (docs/migration-protocol.md), COMMAND goes to the shell, and
// `kill -9 $PPID` in it cuts all connections. It prints "relay: listening" and "relay: at TYPE".

#include <arpa/inet.h>
#include <linux/sockios.h>
#include <netinet/tcp.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <charconv>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "base/fd.h"

namespace vmm::relay {
namespace {

// The parts of the protocol that tell messages apart.
constexpr std::size_t kPreambleBytes = 48;
constexpr std::size_t kKindOffset = 12;
constexpr std::uint8_t kControlConnection = 1;
constexpr std::size_t kAnswerHeadBytes = 17;
constexpr std::size_t kAnswerLengthOffset = 13;
constexpr std::size_t kFrameHeaderBytes = 8;

constexpr std::size_t kBufferBytes = 1 << 20;
constexpr int kBacklog = 32;
constexpr std::chrono::milliseconds kDrainStep{1};
constexpr int kDrainSteps = 2000;

struct Options {
  std::uint16_t port = 0;
  sockaddr_in target{};
  std::uint32_t type = 0;  // of the message to act at; 0: never
  bool after = false;
  std::string command;
};

// What all connections share.
struct Shared {
  Options options;
  std::atomic<bool> acted = false;
};

std::uint32_t u32_at(const std::byte* bytes) {
  std::uint32_t value = 0;
  std::memcpy(&value, bytes, sizeof value);
  return value;
}

// A connection and its continuation to the target.
struct Link {
  Fd client;
  Fd server;
  std::atomic<bool> control = false;
};

// One direction of a link.
class Pump {
 public:
  Pump(Shared& shared, Link& link, bool from_client)
      : shared_(shared),
        link_(link),
        from_client_(from_client),
        from_(from_client ? link.client.get() : link.server.get()),
        to_(from_client ? link.server.get() : link.client.get()),
        buffer_(kBufferBytes) {}

  void run() {
    if (pass_beginning()) {
      if (link_.control) {
        while (pass_frame()) {
        }
      } else {
        while (pass_some()) {
        }
      }
    }
    ::shutdown(to_, SHUT_WR);
  }

 private:
  // The preamble from the client, or the answer to it: both come before anything else.
  [[nodiscard]] bool pass_beginning() {
    if (from_client_) {
      if (!read(kPreambleBytes)) return false;
      link_.control = static_cast<std::uint8_t>(buffer_[kKindOffset]) == kControlConnection;
      return write(kPreambleBytes);
    }
    if (!read(kAnswerHeadBytes) || !write(kAnswerHeadBytes)) return false;
    return pass(u32_at(&buffer_[kAnswerLengthOffset]));
  }

  [[nodiscard]] bool pass_frame() {
    if (!read(kFrameHeaderBytes)) return false;
    const std::uint32_t type = u32_at(buffer_.data());
    const std::uint32_t length = u32_at(&buffer_[sizeof type]);
    const bool act = type == shared_.options.type && !shared_.acted.exchange(true);
    if (act && !shared_.options.after) run_command();
    if (!write(kFrameHeaderBytes) || !pass(length)) return false;
    if (act && shared_.options.after) {
      wait_until_acknowledged();
      run_command();
    }
    return true;
  }

  [[nodiscard]] bool pass(std::size_t count) {
    while (count > 0) {
      const std::size_t part = std::min(count, buffer_.size());
      if (!read(part) || !write(part)) return false;
      count -= part;
    }
    return true;
  }

  [[nodiscard]] bool pass_some() {
    const ssize_t got = ::recv(from_, buffer_.data(), buffer_.size(), 0);
    return got > 0 && write(static_cast<std::size_t>(got));
  }

  [[nodiscard]] bool read(std::size_t count) {
    return ::recv(from_, buffer_.data(), count, MSG_WAITALL) == static_cast<ssize_t>(count);
  }

  [[nodiscard]] bool write(std::size_t count) {
    for (std::size_t done = 0; done < count;) {
      const ssize_t sent = ::send(to_, &buffer_[done], count - done, MSG_NOSIGNAL);
      if (sent <= 0) return false;
      done += static_cast<std::size_t>(sent);
    }
    return true;
  }

  void wait_until_acknowledged() const {
    int left = 0;
    for (int step = 0; step < kDrainSteps; ++step) {
      if (::ioctl(to_, SIOCOUTQ, &left) != 0 || left == 0) return;
      std::this_thread::sleep_for(kDrainStep);
    }
  }

  void run_command() const {
    std::printf("relay: at %u\n", shared_.options.type);
    std::fflush(stdout);
    if (std::system(shared_.options.command.c_str()) != 0) std::puts("relay: the command failed");
    std::fflush(stdout);
  }

  Shared& shared_;
  Link& link_;
  bool from_client_;
  int from_;
  int to_;
  std::vector<std::byte> buffer_;
};

Result<Fd> make_socket() {
  Fd socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!socket.valid()) return fail_errno(ErrorKind::kFailed, "make a socket");
  return socket;
}

void set_no_delay(const Fd& socket) {
  const int on = 1;
  // Only a matter of speed.
  static_cast<void>(::setsockopt(socket.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on));
}

// Both directions of one connection, until both have ended.
void serve(Shared& shared, Fd client) {
  auto server = make_socket();
  const auto* address = reinterpret_cast<const sockaddr*>(&shared.options.target);
  if (!server || ::connect(server.value().get(), address, sizeof shared.options.target) != 0)
    return;
  set_no_delay(client);
  set_no_delay(server.value());
  Link link{std::move(client), std::move(server).value()};
  Pump back(shared, link, false);
  std::thread other([&back] { back.run(); });
  Pump(shared, link, true).run();
  other.join();
}

Result<> run(const Options& options) {
  Shared shared{options};
  TRY(const Fd listener, make_socket());
  sockaddr_in any{};
  any.sin_family = AF_INET;
  any.sin_port = htons(options.port);
  const int on = 1;
  if (::setsockopt(listener.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) != 0 ||
      ::bind(listener.get(), reinterpret_cast<const sockaddr*>(&any), sizeof any) != 0 ||
      ::listen(listener.get(), kBacklog) != 0) {
    return fail_errno(ErrorKind::kFailed, "listen on port {}", options.port);
  }
  std::puts("relay: listening");
  std::fflush(stdout);
  while (true) {
    Fd client(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (!client.valid()) return fail_errno(ErrorKind::kFailed, "accept a connection");
    std::thread([&shared, client = std::move(client)]() mutable {
      serve(shared, std::move(client));
    }).detach();
  }
}

template <typename Number>
bool parse(std::string_view text, Number& into) {
  const auto [end, status] = std::from_chars(text.data(), text.data() + text.size(), into);
  return status == std::errc{} && end == text.data() + text.size() && into > 0;
}

bool parse_options(const std::vector<std::string_view>& words, Options& options) {
  if (words.size() != 3 && words.size() != 6) return false;
  std::uint16_t port = 0;
  const std::string address(words[1]);
  if (!parse(words[0], options.port) || !parse(words[2], port) ||
      ::inet_pton(AF_INET, address.c_str(), &options.target.sin_addr) != 1) {
    return false;
  }
  options.target.sin_family = AF_INET;
  options.target.sin_port = htons(port);
  if (words.size() == 3) return true;
  options.after = words[4] == "after";
  options.command = words[5];
  return parse(words[3], options.type) && (options.after || words[4] == "before");
}

}  // namespace
}  // namespace vmm::relay

int main(int argc, char** argv) {
  vmm::relay::Options options;
  if (!vmm::relay::parse_options({argv + 1, argv + argc}, options)) {
    std::fputs("usage: migration_relay PORT ADDRESS PORT [TYPE before|after COMMAND]\n", stderr);
    return 2;
  }
  const auto ended = vmm::relay::run(options);
  std::fprintf(stderr, "relay: %s\n", ended.error().message().c_str());
  return 1;
}
