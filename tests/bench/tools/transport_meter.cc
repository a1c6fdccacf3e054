// Moves the memory of a guest that stands still from one process to another over loopback, by the
// product's own sender and receiver, and measures what that takes.
//
//   transport_meter MIB CHANNELS random|zeros|untouched [tls]
//
// Prints "wall_s=N send_cpu_s=N receive_cpu_s=N sent_mib=N": seconds from the begin of sending
// until all has arrived, CPU seconds of the two processes meanwhile, and what went over the
// channels. The memory is filled before, and what has arrived is checked behind. Exit status 1 with
// one line on stderr where it cannot be done.

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <future>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/fd.h"
#include "memory/dirty_log.h"
#include "memory/dirty_tracker.h"
#include "memory/guest_memory.h"
#include "memory/pagemap.h"
#include "migration/limits.h"
#include "migration/ram_receiver.h"
#include "migration/ram_sender.h"
#include "migration/tcp_channel.h"
#include "migration/tls_authority.h"
#include "migration/tls_channel.h"
#include "tools/child.h"

namespace vmm::bench {
namespace {

using migration::Channel;
using migration::kDefaultPeerTimeout;
using migration::RamReceiver;
using migration::RamSender;
using migration::TcpAddress;
using migration::TcpListener;
using Channels = std::vector<std::unique_ptr<Channel>>;

constexpr std::uint64_t kBase = 0x4000'0000;

enum class Fill : std::uint8_t { kRandom, kZeros, kUntouched };

// Both ends of encrypted channels, made for the occasion.
struct TlsEnds {
  migration::TlsIdentity source;
  migration::TlsIdentity destination;
};

struct Options {
  std::uint64_t bytes = 0;
  unsigned channels = 0;
  Fill fill = Fill::kRandom;
  std::optional<TlsEnds> tls;
};

// What the receiving process tells the sending one: first the port, then this.
struct Arrival {
  double time = 0;  // of the monotonic clock
  double cpu_s = 0;
};

double seconds_of(clockid_t clock) {
  timespec time{};
  ::clock_gettime(clock, &time);
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) / 1e9;
}
double now() {
  return seconds_of(CLOCK_MONOTONIC);
}
double cpu_time() {
  return seconds_of(CLOCK_PROCESS_CPUTIME_ID);
}

// The log of a guest that stands still.
class NoWrites final : public DirtyLog {
 public:
  explicit NoWrites(std::uint64_t pages) : pages_(pages) {}
  [[nodiscard]] std::uint64_t pages() const override { return pages_; }
  [[nodiscard]] bool offers(DirtyLogMode /*mode*/) const override { return true; }
  [[nodiscard]] Result<> start(DirtyLogMode /*mode*/) override { return success(); }
  [[nodiscard]] Result<> set_mode(DirtyLogMode /*mode*/) override { return success(); }
  [[nodiscard]] Result<std::uint64_t> armed() const override { return 0; }
  [[nodiscard]] Result<> get(std::span<std::uint64_t> bits) override {
    std::memset(bits.data(), 0, bits.size_bytes());
    return success();
  }
  [[nodiscard]] Result<> clear(PageRange /*range*/,
                               std::span<const std::uint64_t> /*bits*/) override {
    return success();
  }
  [[nodiscard]] Result<> stop() override { return success(); }

 private:
  std::uint64_t pages_;
};

Result<TlsEnds> make_tls_ends() {
  std::string name = std::filesystem::temp_directory_path() / "transport-meter-XXXXXX";
  if (::mkdtemp(name.data()) == nullptr) return fail_errno(ErrorKind::kFailed, "make {}", name);
  const std::filesystem::path folder(name);
  const auto made = [&]() -> Result<TlsEnds> {
    const auto validity = migration::default_validity(std::time(nullptr));
    TRY(migration::make_authority(folder / "source", "source", validity));
    TRY(migration::issue(folder / "source", "destination", folder / "destination", validity));
    TRY(auto source, migration::TlsIdentity::load(folder / "source"));
    TRY(auto destination, migration::TlsIdentity::load(folder / "destination"));
    return TlsEnds{std::move(source), std::move(destination)};
  }();
  std::error_code ignored;
  std::filesystem::remove_all(folder, ignored);
  return made;
}

// The two ends of the channels are made here, and nowhere else.
Result<Channels> connect_channels(const Options& options, const TcpAddress& address) {
  std::unique_ptr<migration::Connector> connector;
  if (options.tls) {
    TRY(auto peer, migration::PeerId::parse("destination"));
    connector = std::make_unique<migration::TlsConnector>(address, options.tls->source, peer);
  } else {
    connector = std::make_unique<migration::TcpConnector>(address);
  }
  Channels channels;
  while (channels.size() < options.channels) {
    TRY(auto channel, connector->connect(kDefaultPeerTimeout));
    channels.push_back(std::move(channel));
  }
  return channels;
}

Result<Channels> accept_channels(const Options& options, TcpListener& listener) {
  std::unique_ptr<migration::Acceptor> acceptor;
  if (options.tls) {
    TRY(auto peer, migration::PeerId::parse("source"));
    acceptor = std::make_unique<migration::TlsAcceptor>(listener, options.tls->destination,
                                                        std::vector{peer});
  } else {
    acceptor = std::make_unique<migration::TcpAcceptor>(listener);
  }
  Channels channels;
  while (channels.size() < options.channels) {
    TRY(auto channel, acceptor->accept(kDefaultPeerTimeout));
    channels.push_back(std::move(channel));
  }
  return channels;
}

// What a page is filled with; no two are the same, and none has a zero (xorshift64).
using Page = std::array<std::uint64_t, kPageSize / sizeof(std::uint64_t)>;
Page random_page(std::uint64_t number) {
  std::uint64_t state = (number + 1) * 0x9e37'79b9'7f4a'7c15;
  Page page;
  for (auto& word : page) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    word = state;
  }
  return page;
}

Result<GuestMemory> make_memory(std::uint64_t bytes) {
  return GuestMemory::create(kBase, bytes, Backing::kAnonymous);
}

void fill_memory(std::span<std::byte> memory, Fill fill) {
  if (fill == Fill::kZeros) std::memset(memory.data(), 0, memory.size());
  if (fill != Fill::kRandom) return;
  for (std::uint64_t at = 0; at < memory.size(); at += kPageSize) {
    const Page page = random_page(at / kPageSize);
    std::memcpy(memory.data() + at, page.data(), kPageSize);
  }
}

Result<> check_arrived(std::span<const std::byte> memory, std::uint64_t received, Fill fill) {
  const std::uint64_t expected = fill == Fill::kRandom ? memory.size() : 0;
  if (received != expected) {
    return fail(ErrorKind::kFailed, "{} bytes arrived, not {}", received, expected);
  }
  for (std::uint64_t at = 0; at < expected; at += kPageSize) {
    const Page page = random_page(at / kPageSize);
    if (std::memcmp(memory.data() + at, page.data(), kPageSize) != 0) {
      return fail(ErrorKind::kFailed, "page {} arrived with other contents", at / kPageSize);
    }
  }
  return success();
}

template <typename T>
Result<> tell(const Fd& pipe, const T& value) {
  return write_all(pipe, std::as_bytes(std::span(&value, 1)), "the pipe to the sender");
}
template <typename T>
Result<T> hear(const Fd& pipe) {
  T value{};
  TRY(read_exact(pipe, std::as_writable_bytes(std::span(&value, 1)), "the pipe of the receiver"));
  return value;
}

Result<> receive(const Options& options, const Fd& pipe) {
  TRY(auto memory, make_memory(options.bytes));
  TRY(auto listener, TcpListener::listen({"127.0.0.1", 0}));
  TRY(tell(pipe, listener.address().port));
  TRY(auto channels, accept_channels(options, listener));

  std::promise<Result<>> arrived;
  Arrival arrival;
  const double cpu_before = cpu_time();
  RamReceiver receiver(memory, std::move(channels),
                       {.round_complete =
                            [&](std::uint32_t /*round*/) {
                              arrival.time = now();
                              arrived.set_value(success());
                            },
                        .failed = [&](const Error& error) { arrived.set_value(fail(error)); }});
  TRY(arrived.get_future().get());
  TRY(receiver.finish());
  arrival.cpu_s = cpu_time() - cpu_before;
  TRY(check_arrived(memory.regions()[0].bytes, receiver.bytes(), options.fill));
  return tell(pipe, arrival);
}

Result<> send(const Options& options, const Fd& pipe) {
  TRY(auto memory, make_memory(options.bytes));
  fill_memory(memory.regions()[0].bytes, options.fill);
  NoWrites log(options.bytes / kPageSize);
  DirtyTracker tracker(log, memory);
  TRY(const auto pagemap, Pagemap::open());
  TRY(tracker.start(DirtyLogMode::kWriteProtect));
  TRY(const auto port, hear<std::uint16_t>(pipe));
  TRY(auto channels, connect_channels(options, {"127.0.0.1", port}));

  const double begin = now();
  const double cpu_before = cpu_time();
  RamSender sender(memory, tracker, pagemap, std::move(channels));
  TRY(const auto counters, sender.send_round(1, true));
  const double cpu_s = cpu_time() - cpu_before;
  TRY(const auto arrival, hear<Arrival>(pipe));
  std::printf("wall_s=%.4f send_cpu_s=%.4f receive_cpu_s=%.4f sent_mib=%.1f\n",
              arrival.time - begin, cpu_s, arrival.cpu_s,
              static_cast<double>(counters.bytes) / (1 << 20));
  return success();
}

int print_error(const Error& error) {
  std::fprintf(stderr, "transport_meter: %s\n", error.message().c_str());
  return error.kind() == ErrorKind::kUsage ? 2 : 1;
}

Result<Options> parse(int argc, char** argv) {
  const bool tls = argc == 5 && std::string_view(argv[4]) == "tls";
  if (argc != 4 && !tls) {
    return fail(ErrorKind::kUsage, "usage: {} MIB CHANNELS random|zeros|untouched [tls]", argv[0]);
  }
  TRY(const long mib, parse_positive(argv[1]));
  TRY(const long channels, parse_positive(argv[2]));
  Options options{.bytes = static_cast<std::uint64_t>(mib) << 20,
                  .channels = static_cast<unsigned>(channels),
                  .fill = Fill::kRandom,
                  .tls = std::nullopt};
  const std::string_view fill = argv[3];
  if (fill == "zeros") {
    options.fill = Fill::kZeros;
  } else if (fill == "untouched") {
    options.fill = Fill::kUntouched;
  } else if (fill != "random") {
    return fail(ErrorKind::kUsage, "'{}' is not random, zeros or untouched", fill);
  }
  if (tls) {
    TRY(options.tls, make_tls_ends());
  }
  return options;
}

Result<> run(int argc, char** argv) {
  TRY(const auto options, parse(argc, argv));
  ::signal(SIGPIPE, SIG_IGN);
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) return fail_errno(ErrorKind::kFailed, "make a pipe");
  Fd read_end(ends[0]);
  Fd write_end(ends[1]);
  const pid_t pid = ::fork();
  if (pid < 0) return fail_errno(ErrorKind::kFailed, "fork");
  if (pid == 0) {
    const auto received = receive(options, write_end);
    ::_exit(received ? 0 : print_error(received.error()));
  }
  write_end = Fd();
  Child child(pid, std::move(read_end));
  return send(options, child.output());
}

}  // namespace
}  // namespace vmm::bench

int main(int argc, char** argv) {
  const auto result = vmm::bench::run(argc, argv);
  return result ? 0 : vmm::bench::print_error(result.error());
}
