// A whole migration, with what goes over the wire recorded.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <list>
#include <string_view>
#include <thread>

#include "migration_rig.h"
#include "tls_support.h"

namespace vmm::migration {
namespace {

using ::testing::HasSubstr;

// What every third page of the guest contains, over and over.
constexpr std::string_view kPattern = "16 bytes of guest";

// Passes connections on to an address, and keeps all bytes of both directions.
class WireTap {
 public:
  explicit WireTap(TcpAddress to) : to_(std::move(to)) {
    acceptor_ = std::thread([this] {
      for (;;) {
        auto accepted = listener_.accept(kLong);
        if (!accepted) return;
        auto connected = tcp_connect(to_, kLong);
        if (!connected) return;
        auto& [ours, theirs] =
            connections_.emplace_back(std::move(accepted).value(), std::move(connected).value());
        copiers_.emplace_back(
            [this, from = ours.get(), into = theirs.get()] { copy(*from, *into); });
        copiers_.emplace_back(
            [this, from = theirs.get(), into = ours.get()] { copy(*from, *into); });
      }
    });
  }
  WireTap(const WireTap&) = delete;
  WireTap& operator=(const WireTap&) = delete;
  ~WireTap() { stop(); }

  void stop() {
    listener_.interrupt();
    if (acceptor_.joinable()) acceptor_.join();
    for (const auto& [ours, theirs] : connections_) {
      ours->interrupt();
      theirs->interrupt();
    }
    for (auto& copier : copiers_) copier.join();
    copiers_.clear();
  }
  [[nodiscard]] const TcpAddress& address() const { return listener_.address(); }
  // After stop().
  [[nodiscard]] std::size_t bytes() const {
    std::size_t total = 0;
    for (const auto& stream : streams_) total += stream.size();
    return total;
  }
  [[nodiscard]] bool saw(std::string_view text) const {
    return std::ranges::any_of(
        streams_, [&](const auto& stream) { return stream.find(text) != std::string::npos; });
  }

 private:
  void copy(TcpSocket& from, TcpSocket& into) {
    std::string stream;
    std::vector<char> bytes(1 << 16);
    for (;;) {
      const iovec space{bytes.data(), bytes.size()};
      const auto received = from.receive_some(std::span(&space, 1));
      if (!received) break;
      stream.append(bytes.data(), received.value());
      std::size_t sent = 0;
      while (sent < received.value()) {
        const iovec rest{bytes.data() + sent, received.value() - sent};
        const auto some = into.send_some(std::span(&rest, 1));
        if (!some) break;
        sent += some.value();
      }
      if (sent < received.value()) break;
    }
    // Who waits at the other end learns that this one has gone.
    into.interrupt();
    const std::lock_guard lock(mutex_);
    streams_.push_back(std::move(stream));
  }

  const TcpAddress to_;
  TcpListener listener_ = TcpListener::listen({"127.0.0.1", 0}).value();
  std::list<Sockets> connections_;
  std::list<std::thread> copiers_;
  std::mutex mutex_;
  std::vector<std::string> streams_;  // one for each direction of each connection
  std::thread acceptor_;
};

// Moves a guest through a tap. make_connector and make_acceptor say how.
template <typename MakeAcceptor, typename MakeConnector>
void move_through(std::optional<WireTap>& tap, MakeAcceptor make_acceptor,
                  MakeConnector make_connector) {
  const TempDir folder;
  GuestWorld world;
  FakeSourceGuest source_guest(world);
  FakeDestinationGuest destination_guest(world);
  for (std::size_t at = kPageSize / 2; at < source_guest.bytes.size(); at += 3 * kPageSize) {
    std::memcpy(source_guest.bytes.data() + at, kPattern.data(), kPattern.size());
  }
  auto source_records = DecisionRecords::open(folder / "source").value();
  auto destination_records = DecisionRecords::open(folder / "destination").value();
  auto listener = TcpListener::listen({"127.0.0.1", 0}).value();
  tap.emplace(listener.address());
  auto acceptor = make_acceptor(listener);
  auto connector = make_connector(tap->address());
  Destination destination(acceptor, destination_records, kLong);
  auto manifest = full_manifest();
  manifest.memory = kGuestPages * kPageSize;
  manifest.channels = 2;
  SourceOptions options;
  options.peer_timeout = kLong;
  options.limits.downtime = std::chrono::minutes(10);
  options.verify = true;
  Source source(source_guest, connector, source_records, manifest, "there:4444", options);
  std::jthread receiver([&] {
    const auto arrived = destination.await_manifest();
    ASSERT_TRUE(arrived);
    const auto received = destination.receive(destination_guest);
    EXPECT_TRUE(received) << received.error().message();
  });
  const auto moved = source.run();
  if (!moved) destination.cancel();
  ASSERT_TRUE(moved) << moved.error().message();
  receiver.join();
  EXPECT_TRUE(world.destination_runs());
  const auto there = destination_guest.ram.slice(kGuestBase, destination_guest.ram.size()).value();
  EXPECT_TRUE(std::ranges::equal(source_guest.at_pause, there)) << "memory differs";
  const std::string_view text(reinterpret_cast<const char*>(there.data()), there.size());
  EXPECT_NE(text.find(kPattern), std::string_view::npos);
}

// Of the pattern, any 16 bytes.
bool leaked(const WireTap& tap) {
  constexpr std::size_t kRun = 16;
  for (std::size_t at = 0; at + kRun <= kPattern.size(); ++at) {
    if (tap.saw(kPattern.substr(at, kRun))) return true;
  }
  return false;
}

TEST(TlsMigrationTest, NothingOfTheGuestIsSeenOnTheWire) {
  const TlsHosts hosts;
  std::optional<WireTap> tap;
  move_through(
      tap,
      [&](TcpListener& listener) {
        return TlsAcceptor(listener, hosts.identity("there"), {peer_id("here")});
      },
      [&](const TcpAddress& address) {
        return TlsConnector(address, hosts.identity("here"), peer_id("there"));
      });
  tap->stop();
  EXPECT_GT(tap->bytes(), kGuestPages / 4 * kPageSize);
  EXPECT_FALSE(leaked(*tap));
  EXPECT_FALSE(tap->saw("VMMMIGR1"));
  EXPECT_FALSE(tap->saw(full_manifest().guest));
}

TEST(TlsMigrationTest, InPlaintextAllOfItIs) {
  std::optional<WireTap> tap;
  move_through(
      tap, [](TcpListener& listener) { return TcpAcceptor(listener); },
      [](const TcpAddress& address) { return TcpConnector(address); });
  tap->stop();
  EXPECT_TRUE(leaked(*tap));
  EXPECT_TRUE(tap->saw("VMMMIGR1"));
  EXPECT_TRUE(tap->saw(full_manifest().guest));
}

// A question about a migration is answered from the records, and to those who may ask only.
class TlsQueryTest : public ::testing::Test {
 protected:
  // What `who` hears, asking what became of a migration.
  Result<Outcome> ask(const std::string& who) {
    auto listener = TcpListener::listen({"127.0.0.1", 0}).value();
    TlsAcceptor acceptor(listener, hosts_.identity("there"), {peer_id("here")});
    Destination destination(acceptor, records_, kLong);
    TlsConnector connector(listener.address(), hosts_.identity(who), peer_id("there"));
    TRY(auto channel, connector.connect(kLong));
    TRY(introduce(*channel, {.kind = ConnectionKind::kQuery, .id = id_}));
    PeerLink link(std::move(channel), kLong);
    TRY(const auto answer, expect<OutcomeMessage>(link.receive(kLong)));
    return answer.outcome;
  }

  TlsHosts hosts_;
  TempDir folder_;
  DecisionRecords records_ = DecisionRecords::open(folder_ / "records").value();
  MigrationId id_ = MigrationId::random().value();
};

TEST_F(TlsQueryTest, ALaterReceiverAnswersFromTheRecords) {
  ASSERT_TRUE(records_.decide(id_, Outcome::kStarted, 1));
  const auto outcome = ask("here");
  ASSERT_TRUE(outcome) << outcome.error().message();
  EXPECT_EQ(outcome.value(), Outcome::kStarted);
}

TEST_F(TlsQueryTest, WhoIsNotAllowedLearnsAndDecidesNothing) {
  hosts_.add("third");
  expect_error(ask("third"), ErrorKind::kMigration, "not among those of --allow-peer");
  const auto decided = records_.lookup(id_);
  ASSERT_TRUE(decided);
  EXPECT_FALSE(decided.value()) << "a question of nobody's has ended a migration";
}

}  // namespace
}  // namespace vmm::migration
