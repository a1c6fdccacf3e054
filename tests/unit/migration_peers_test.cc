// Source and Destination with peers that are none, or fall silent.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <latch>

#include "migration_rig.h"

namespace vmm::migration {
namespace {

using namespace std::chrono_literals;
using ::testing::HasSubstr;

// A source that says what a test wants.
class RawSource {
 public:
  explicit RawSource(MigrationRig& rig) : rig_(rig) {}

  [[nodiscard]] Result<std::unique_ptr<Channel>> open(const Preamble& preamble) {
    TRY(auto socket, tcp_connect(rig_.address(), kLong));
    auto channel = std::make_unique<TcpChannel>(std::move(socket));
    TRY(introduce(*channel, preamble));
    return std::unique_ptr<Channel>(std::move(channel));
  }
  // Up to open data channels.
  void arrive() {
    const Preamble control{.kind = ConnectionKind::kControl, .id = rig_.manifest.id};
    auto taken = open(control);
    // A source before this one may not have been let go yet.
    for (const auto end = std::chrono::steady_clock::now() + kLong;
         !taken && std::chrono::steady_clock::now() < end; taken = open(control)) {
      std::this_thread::sleep_for(1ms);
    }
    link = std::make_unique<PeerLink>(std::move(taken).value(), kLong);
    ASSERT_TRUE(link->send(ManifestMessage{rig_.manifest}));
    accept = expect<Accept>(link->receive(kLong)).value();
    for (std::uint16_t i = 0; i < accept.channels; ++i) data.push_back(open(channel(i)).value());
  }
  [[nodiscard]] Preamble channel(std::uint16_t index) const {
    return {ConnectionKind::kData, rig_.manifest.id, accept.secret, index};
  }

  std::unique_ptr<PeerLink> link;
  Accept accept;
  Channels data;

 private:
  MigrationRig& rig_;
};

// The destination's side alone.
class DestinationTest : public ::testing::Test {
 protected:
  std::future<Result<>> receive() {
    return std::async(std::launch::async, [this]() -> Result<> {
      TRY(rig.manifest, rig.destination->await_manifest());
      return rig.destination->receive(rig.destination_guest);
    });
  }
  MigrationRig rig;
  RawSource source{rig};
};

TEST_F(DestinationTest, EndsWhenTheControlConnectionGoesWhileARoundIsAwaited) {
  auto received = receive();
  source.arrive();
  ASSERT_TRUE(source.link->send(RoundEnd{1}));
  source.link.reset();
  const auto result = received.get();
  ASSERT_FALSE(result);
  EXPECT_THAT(result.error().message(), HasSubstr("closed the connection"));
  EXPECT_EQ(rig.decision(), Outcome::kDiscarded);
}

TEST_F(DestinationTest, EndsWhenItIsCancelledWhileARoundIsAwaited) {
  auto received = receive();
  source.arrive();
  ASSERT_TRUE(source.link->send(RoundEnd{1}));
  rig.destination->cancel();
  EXPECT_EQ(received.get().error().kind(), ErrorKind::kInterrupted);
}

TEST_F(DestinationTest, TellsTheSourceWhatIsWrongWithADataChannel) {
  auto received = receive();
  source.arrive();
  const std::array<std::byte, 24> nonsense{std::byte{9}};
  ASSERT_TRUE(write_bytes(*source.data[1], nonsense));
  EXPECT_THAT(source.link->last_words(kLong).value_or(""), HasSubstr("no such type: 9"));
  EXPECT_THAT(received.get().error().message(), HasSubstr("no such type: 9"));
}

TEST_F(DestinationTest, LetsGoOfTheDisksBeforeItSaysThatItHasDiscarded) {
  std::optional<DestinationState> state;
  rig.world.on_call = [&](const std::string& call) {
    if (call == "destination release 1") state = rig.destination->state();
  };
  auto received = receive();
  source.arrive();
  ASSERT_TRUE(source.link->send(Cancel{"enough"}));
  EXPECT_FALSE(received.get());
  ASSERT_TRUE(state);
  EXPECT_EQ(*state, DestinationState::kReceiving) << "who asks meanwhile has to wait";
}

TEST_F(DestinationTest, TakesNoMessageOutOfTurn) {
  for (const Message& message :
       {Message(Commit{1}), Message(Verify{}), Message(Done{}), Message(RoundEnd{2}),
        Message(ManifestMessage{rig.manifest}), Message(Started{})}) {
    SCOPED_TRACE(to_string(type_of(message)));
    MigrationRig other;
    RawSource hostile(other);
    auto received = std::async(std::launch::async, [&]() -> Result<> {
      TRY(other.manifest, other.destination->await_manifest());
      return other.destination->receive(other.destination_guest);
    });
    hostile.arrive();
    ASSERT_TRUE(hostile.link->send(message));
    EXPECT_FALSE(received.get());
    EXPECT_EQ(other.world.calls("destination acquire"), 0);
    EXPECT_EQ(other.decision(), Outcome::kDiscarded);
  }
}

TEST_F(DestinationTest, TurnsASecondSourceAwayAndStrangersFromItsDataChannels) {
  auto received = receive();
  source.arrive();
  auto other = source.open({.kind = ConnectionKind::kControl, .id = MigrationId::random().value()});
  ASSERT_FALSE(other);
  EXPECT_THAT(other.error().message(), HasSubstr("it is taken by another migration"));
  auto wrong = source.channel(0);
  wrong.secret[15] ^= std::byte{1};
  auto taken = source.channel(0);
  auto beyond = source.channel(source.accept.channels);
  auto foreign = source.channel(1);
  foreign.id = MigrationId::random().value();
  for (const auto& preamble : {wrong, taken, beyond, foreign}) {
    const auto refused = source.open(preamble);
    ASSERT_FALSE(refused);
    EXPECT_THAT(refused.error().message(), HasSubstr("no migration here has this connection"));
  }
  ASSERT_TRUE(source.link->send(Cancel{"enough"}));
  EXPECT_THAT(received.get().error().message(), HasSubstr("has given up: enough"));
}

TEST_F(DestinationTest, WaitsForTheNextSourceWhereOneSaysNothingOfUse) {
  auto received = receive();
  {
    PeerLink link(source.open({.kind = ConnectionKind::kControl, .id = rig.manifest.id}).value(),
                  kLong);
    ASSERT_TRUE(link.send(Done{}));
    const auto refusal = expect<Refuse>(link.receive(kLong));
    ASSERT_TRUE(refusal);
    EXPECT_THAT(refusal.value().text, HasSubstr("sent DONE where it was to send MANIFEST"));
  }
  source.arrive();
  ASSERT_TRUE(source.link->send(Cancel{"enough"}));
  EXPECT_FALSE(received.get());
}

TEST_F(DestinationTest, KeepsFewRecordsOfMigrationsThatOnlyStrangersKnow) {
  auto received = receive();
  source.arrive();
  const auto ask = [&](const MigrationId& id) {
    auto channel = source.open({.kind = ConnectionKind::kQuery, .id = id});
    if (!channel) return false;
    PeerLink link(std::move(channel).value(), kLong);
    return expect<OutcomeMessage>(link.receive(kLong)).value().outcome == Outcome::kDiscarded;
  };
  const auto known = MigrationId::random().value();
  EXPECT_TRUE(ask(known));
  std::ptrdiff_t answered = 1;
  while (answered < 200 && ask(MigrationId::random().value())) ++answered;
  EXPECT_EQ(answered, 64);
  const auto files = std::filesystem::directory_iterator(rig.destination_folder);
  EXPECT_EQ(std::distance(begin(files), end(files)), answered);
  EXPECT_TRUE(ask(known)) << "what is recorded is told";
  ASSERT_TRUE(source.link->send(Cancel{"enough"}));
  EXPECT_FALSE(received.get());
  EXPECT_TRUE(ask(rig.manifest.id)) << "what was decided here is told";
}

// Hands out channels on which nobody ever says anything.
class SilentAcceptor final : public Acceptor {
 public:
  [[nodiscard]] Result<std::unique_ptr<Channel>> accept(
      std::chrono::milliseconds /*timeout*/) override {
    std::unique_lock lock(mutex_);
    if (given_ < 3) {
      ++given_;
      return std::unique_ptr<Channel>(std::make_unique<ScriptedChannel>());
    }
    all_given.count_down();
    changed_.wait(lock, [this] { return interrupted_; });
    return fail(ErrorKind::kInterrupted, "interrupted");
  }
  void interrupt() override {
    const std::lock_guard lock(mutex_);
    interrupted_ = true;
    changed_.notify_all();
  }

  std::latch all_given{1};

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  int given_ = 0;
  bool interrupted_ = false;
};

TEST_F(DestinationTest, EndsThoughConnectionsAreOpenThatSayNothing) {
  SilentAcceptor silent;
  Destination destination(silent, rig.destination_records, kLong);
  silent.all_given.wait();
  // Its end would not come if it waited for them.
}

TEST(SourceTest, EndsARoundWhoseControlConnectionIsGone) {
  MigrationRig rig;
  // So slow that it would take an hour.
  rig.options.bandwidth = 1000;
  auto listener = TcpListener::listen({"127.0.0.1", 0}).value();
  std::thread destination([&] {
    const auto next = [&] {
      auto channel = std::make_unique<TcpChannel>(listener.accept(kLong).value());
      EXPECT_TRUE(read_preamble(*channel));
      EXPECT_TRUE(answer_preamble(*channel, {}));
      return channel;
    };
    auto link = std::make_unique<PeerLink>(next(), kLong);
    EXPECT_TRUE(expect<ManifestMessage>(link->receive(kLong)));
    EXPECT_TRUE(link->send(Accept{{}, 1}));
    const auto data = next();
    std::array<std::byte, 24> header{};
    EXPECT_TRUE(read_bytes(*data, header));
    link.reset();
    // It stays open, and is read from, until the source closes it.
    std::array<std::byte, 4096> rest{};
    while (read_bytes(*data, rest)) {
    }
  });
  FaultyConnector connector(listener.address(), rig.plan);
  Source source(rig.source_guest, connector, rig.source_records, rig.manifest, "there:4444",
                rig.options);
  const auto moved = source.run();
  destination.join();
  ASSERT_FALSE(moved);
  EXPECT_THAT(moved.error().message(), HasSubstr("closed the connection"));
  EXPECT_TRUE(rig.world.source_runs());
  EXPECT_FALSE(rig.source_guest.log.on);
}

// What a source makes of a destination that gives these answers, the first of them to its manifest,
// and a time as often as it asks for it; data connections are taken and read from.
std::string error_with(std::vector<Message> answers, unsigned max_rounds = 30) {
  MigrationRig rig;
  rig.options.limits.max_rounds = max_rounds;
  auto listener = TcpListener::listen({"127.0.0.1", 0}).value();
  std::thread destination([&] {
    const auto next = [&] {
      auto channel = std::make_unique<TcpChannel>(listener.accept(kLong).value());
      EXPECT_TRUE(read_preamble(*channel));
      EXPECT_TRUE(answer_preamble(*channel, {}));
      return channel;
    };
    PeerLink link(next(), kLong);
    EXPECT_TRUE(link.receive(kLong));
    std::vector<std::jthread> readers;
    const auto say = [&link](const Message& answer) {
      const int times = std::holds_alternative<TimeMessage>(answer) ? Source::kTimesAsked : 1;
      for (int i = 0; i < times; ++i) {
        if (!link.send(answer)) return false;
      }
      return true;
    };
    for (const auto& answer : answers) {
      if (!say(answer)) break;
      const auto* accept = std::get_if<Accept>(&answer);
      if (accept == nullptr || accept->channels > rig.manifest.channels) continue;
      for (int i = 0; i < accept->channels; ++i) {
        readers.emplace_back([channel = next()] {
          std::array<std::byte, 4096> rest{};
          while (read_bytes(*channel, rest)) {
          }
        });
      }
    }
    // Until it has given up.
    while (!link.last_words(kLong) && !link.error()) {
    }
  });
  FaultyConnector connector(listener.address(), rig.plan);
  Source source(rig.source_guest, connector, rig.source_records, rig.manifest, "there:4444",
                rig.options);
  const auto moved = source.run();
  destination.join();
  EXPECT_FALSE(moved);
  EXPECT_TRUE(rig.world.source_runs());
  EXPECT_FALSE(rig.source_guest.log.on);
  return moved ? "" : moved.error().message();
}

TEST(SourceTest, OpensNoMoreDataChannelsThanItAskedFor) {
  EXPECT_THAT(error_with({Accept{{}, 3}}),
              HasSubstr("grants 3 data channels where 2 were asked for"));
}

TEST(SourceTest, BelievesNoTimeThatCannotBe) {
  constexpr std::uint64_t kDayNs = 86'400'000'000'000;
  // Not that restoring takes a day, when the answer came at once: the next message is looked at.
  EXPECT_THAT(error_with({Accept{{}, 2}, RoundAck{1}, TimeMessage{5}, Rehearsed{kDayNs}, Done{}}),
              HasSubstr("sent DONE where it was to send ROUND_ACK"));
  for (const std::uint64_t more : {kDayNs + 1, std::uint64_t{INT64_MAX}, UINT64_MAX}) {
    EXPECT_THAT(error_with({Accept{{}, 2}, RoundAck{1}, TimeMessage{5}, Rehearsed{more}}),
                HasSubstr("message REHEARSED: it took"));
  }
  EXPECT_THAT(error_with({Accept{{}, 2}, RoundAck{1}, TimeMessage{366 * kDayNs}}),
              HasSubstr("message TIME: since the session began: 31622400000000000 ns"));
}

TEST(SourceTest, TakesNoAcknowledgementOfAnotherRound) {
  EXPECT_THAT(error_with({Accept{{}, 2}, RoundAck{2}}),
              HasSubstr("acknowledged round 2 instead of 1"));
  // Of the last one, either.
  EXPECT_THAT(
      error_with({Accept{{}, 2}, RoundAck{1}, TimeMessage{5}, Rehearsed{1}, RoundAck{9}}, 1),
      HasSubstr("acknowledged round 9 instead of 2"));
}

}  // namespace
}  // namespace vmm::migration
