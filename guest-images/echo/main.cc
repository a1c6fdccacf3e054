// Keeps a TCP connection to the echo service of a guest (vmm.echo=PORT on its command line), sends
// it a number every so often and counts what comes back.
//
//   echo_client ADDRESS PORT [INTERVAL_MS]
//
// Prints "echo: connected", and after SIGTERM or SIGINT, or when the connection breaks, waits for
// the replies still missing and prints
//
//   echo: sent=N received=N lost=N longest_ms=M connection=ok|broken
//
// where longest_ms is the longest time from a number to its reply. Exit status: 0 nothing was lost,
// 1 something was, or no connection, 2 usage.

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <deque>
#include <string_view>

#include "base/fd.h"

namespace vmm::echo {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr milliseconds kDefaultInterval{20};
// A guest that has not answered within this and the time it had stood still for has lost the
// number: TCP doubles the time between two attempts, so that the next may be as far off again.
constexpr milliseconds kLastReplies{10'000};

struct Options {
  sockaddr_in address{};
  milliseconds interval = kDefaultInterval;
};

Result<Fd> connect_to(const sockaddr_in& address) {
  Fd socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!socket.valid()) return fail_errno(ErrorKind::kFailed, "make a socket");
  if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    return fail_errno(ErrorKind::kFailed, "connect to port {}", ntohs(address.sin_port));
  }
  const int on = 1;
  if (::setsockopt(socket.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) != 0) {
    return fail_errno(ErrorKind::kFailed, "set TCP_NODELAY");
  }
  return socket;
}

// SIGTERM and SIGINT as a descriptor.
Fd stop_signals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  sigprocmask(SIG_BLOCK, &set, nullptr);
  return Fd(signalfd(-1, &set, SFD_CLOEXEC));
}

// The numbers of one connection, in both directions. A number is 8 bytes in this machine's order.
class Exchange {
 public:
  explicit Exchange(Fd socket) : socket_(std::move(socket)) {}

  [[nodiscard]] int fd() const { return socket_.get(); }
  [[nodiscard]] bool broken() const { return broken_; }
  [[nodiscard]] bool all_back() const { return pending_.empty(); }
  // How long the oldest of the missing replies has been awaited.
  [[nodiscard]] Clock::duration awaited() const {
    return all_back() ? Clock::duration::zero() : Clock::now() - pending_.front();
  }

  void send_next() {
    const std::uint64_t number = sent_;
    // A guest that takes nothing for so long fills the buffer; the number then waits its turn.
    const ssize_t done = ::send(socket_.get(), &number, sizeof number, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (done < 0 && (errno == EAGAIN || errno == EINTR)) return;
    broken_ = broken_ || done != sizeof number;
    pending_.push_back(Clock::now());
    ++sent_;
  }

  void take_replies() {
    const ssize_t got =
        ::recv(socket_.get(), buffer_ + filled_, sizeof buffer_ - filled_, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
    broken_ = broken_ || got <= 0;
    filled_ += got > 0 ? static_cast<std::size_t>(got) : 0;
    std::size_t used = 0;
    for (; filled_ - used >= sizeof(std::uint64_t); used += sizeof(std::uint64_t)) {
      std::uint64_t number = 0;
      std::memcpy(&number, buffer_ + used, sizeof number);
      take(number);
    }
    std::memmove(buffer_, buffer_ + used, filled_ - used);
    filled_ -= used;
  }

  // Prints the figures; whether nothing was lost.
  [[nodiscard]] bool report() const {
    const std::uint64_t lost = sent_ - received_;
    std::printf("echo: sent=%llu received=%llu lost=%llu longest_ms=%lld connection=%s\n",
                static_cast<unsigned long long>(sent_), static_cast<unsigned long long>(received_),
                static_cast<unsigned long long>(lost), static_cast<long long>(longest_.count()),
                broken_ ? "broken" : "ok");
    return lost == 0 && !broken_;
  }

 private:
  void take(std::uint64_t number) {
    if (number != received_ || pending_.empty()) {
      broken_ = true;  // not what was sent: this stream is none any more
      return;
    }
    longest_ = std::max(longest_,
                        std::chrono::duration_cast<milliseconds>(Clock::now() - pending_.front()));
    pending_.pop_front();
    ++received_;
  }

  Fd socket_;
  bool broken_ = false;
  std::uint64_t sent_ = 0;
  std::uint64_t received_ = 0;
  std::deque<Clock::time_point> pending_;  // when the numbers were sent that are not back yet
  milliseconds longest_{0};
  char buffer_[4096];
  std::size_t filled_ = 0;
};

Result<bool> run(const Options& options) {
  const Fd stop = stop_signals();
  TRY(Fd socket, connect_to(options.address));
  Exchange exchange(std::move(socket));
  std::puts("echo: connected");
  std::fflush(stdout);
  Clock::time_point next = Clock::now();
  Clock::time_point end = Clock::time_point::max();  // of the wait for the last replies
  while (!exchange.broken() && Clock::now() < end) {
    const bool stopping = end != Clock::time_point::max();
    if (stopping && exchange.all_back()) break;
    if (!stopping && Clock::now() >= next) {
      exchange.send_next();
      next = std::max(next + options.interval, Clock::now());
    }
    const auto wait = std::chrono::ceil<milliseconds>((stopping ? end : next) - Clock::now());
    pollfd polled[] = {{exchange.fd(), POLLIN, 0}, {stop.get(), POLLIN, 0}};
    // Once stopping, the signal stays pending and would end every wait at once.
    ::poll(polled, stopping ? 1 : 2, static_cast<int>(std::max<std::int64_t>(wait.count(), 0)));
    if (polled[0].revents != 0) exchange.take_replies();
    if (!stopping && polled[1].revents != 0) {
      end = Clock::now() + kLastReplies + exchange.awaited();
    }
  }
  return exchange.report();
}

template <typename Number>
bool parse(std::string_view text, Number least, Number most, Number& into) {
  const auto [end, status] = std::from_chars(text.data(), text.data() + text.size(), into);
  return status == std::errc{} && end == text.data() + text.size() && into >= least && into <= most;
}

bool parse_options(int argc, char** argv, Options& options) {
  if (argc < 3 || argc > 4) return false;
  std::uint16_t port = 0;
  if (::inet_pton(AF_INET, argv[1], &options.address.sin_addr) != 1) return false;
  if (!parse<std::uint16_t>(argv[2], 1, UINT16_MAX, port)) return false;
  options.address.sin_family = AF_INET;
  options.address.sin_port = htons(port);
  std::int64_t interval = options.interval.count();
  if (argc == 4 && !parse<std::int64_t>(argv[3], 1, 60'000, interval)) return false;
  options.interval = milliseconds(interval);
  return true;
}

}  // namespace
}  // namespace vmm::echo

int main(int argc, char** argv) {
  vmm::echo::Options options;
  if (!vmm::echo::parse_options(argc, argv, options)) {
    std::fputs("usage: echo_client IPV4-ADDRESS PORT [INTERVAL_MS of 1 to 60000]\n", stderr);
    return 2;
  }
  const auto nothing_lost = vmm::echo::run(options);
  if (!nothing_lost) {
    std::fprintf(stderr, "echo: %s\n", nothing_lost.error().message().c_str());
    return 1;
  }
  return nothing_lost.value() ? 0 : 1;
}
