// Source and Destination with fake guests over loopback: what they do when all goes well, and with
// a fault wherever one may be.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <latch>

#include "migration_rig.h"

namespace vmm::migration {
namespace {

using namespace std::chrono_literals;
using ::testing::HasSubstr;

constexpr auto kSilence = 400ms;  // a timeout that is meant to be met

TEST(MigrationEngineTest, MovesAGuestWhole) {
  MigrationRig rig;
  rig.run();
  rig.expect_arrived();
  const auto& report = rig.moved->value();
  EXPECT_EQ(report.id, rig.manifest.id);
  ASSERT_GE(report.rounds.size(), 2u);
  EXPECT_EQ(report.rounds.front().dirty_pages, kGuestPages);
  EXPECT_EQ(report.rounds.front().mode, DirtyLogMode::kHardware);
  EXPECT_GT(report.rounds.front().sent_bytes, kGuestPages / 4 * kPageSize);
  EXPECT_LT(report.rounds.back().sent_bytes, report.rounds.front().sent_bytes);
  for (std::size_t i = 0; i < report.rounds.size(); ++i) EXPECT_EQ(report.rounds[i].n, i + 1);
  EXPECT_GT(report.downtime.count(), 0);
  EXPECT_LT(report.downtime, report.total);
  EXPECT_FALSE(report.verify);
  EXPECT_EQ(rig.source->progress().round, report.rounds.size());
  std::uint64_t sent = 0;
  for (const auto& round : report.rounds) sent += round.sent_bytes;
  EXPECT_EQ(rig.source->progress().sent_bytes, sent);
  EXPECT_EQ(rig.world.calls("source resume"), 1) << "after the rehearsal alone";
}

TEST(MigrationEngineTest, ComparesDigestsWhereAskedTo) {
  MigrationRig rig;
  rig.options.verify = true;
  rig.run();
  rig.expect_arrived();
  const auto& verify = rig.moved->value().verify;
  ASSERT_TRUE(verify);
  EXPECT_EQ(verify->source, verify->destination);
  EXPECT_EQ(verify->source.size(), 64u);
}

TEST(MigrationEngineTest, DoesNotCommitWhereDigestsDiffer) {
  MigrationRig rig;
  rig.options.verify = true;
  rig.world.on_call = [&rig](const std::string& call) {
    // A bit flips at the destination.
    if (call == "destination restore 2") {
      auto byte = rig.destination_guest.ram.slice(kGuestBase, 1).value();
      byte[0] ^= std::byte{1};
    }
  };
  rig.run();
  rig.expect_stayed();
  EXPECT_THAT(rig.error(), HasSubstr("guest memory differs"));
}

TEST(MigrationEngineTest, LogsAsItIsTold) {
  for (const auto choice : {LogChoice::kHardware, LogChoice::kWriteProtect}) {
    MigrationRig rig;
    rig.options.limits.log = choice;
    rig.run();
    rig.expect_arrived();
    const auto wanted =
        choice == LogChoice::kHardware ? DirtyLogMode::kHardware : DirtyLogMode::kWriteProtect;
    for (const auto& round : rig.moved->value().rounds) EXPECT_EQ(round.mode, wanted);
  }
}

TEST(MigrationEngineTest, DoesWithoutHardwareLoggingUnlessItIsRequired) {
  MigrationRig rig;
  rig.source_guest.log.hardware = false;
  rig.run();
  rig.expect_arrived();
  EXPECT_EQ(rig.moved->value().rounds.front().mode, DirtyLogMode::kWriteProtect);

  MigrationRig strict;
  strict.source_guest.log.hardware = false;
  strict.options.require_hw = true;
  strict.run();
  strict.expect_stayed();
  EXPECT_THAT(strict.error(), HasSubstr("no hardware dirty logging"));
}

TEST(MigrationEngineTest, DoesNotTrustAHardwareLogThatRecordsNothing) {
  MigrationRig rig;
  rig.source_guest.log.records = false;
  rig.run();
  rig.expect_stayed();
  EXPECT_THAT(rig.error(), HasSubstr("armed no page"));
}

TEST(MigrationEngineTest, AControlRunLeavesTheGuestWhereItIs) {
  MigrationRig rig;
  // Less than one pass over memory: in the next one two channels may write a page at once.
  rig.options.control_run = 1'000'000;
  rig.run();
  ASSERT_TRUE(*rig.moved) << rig.error();
  EXPECT_EQ(rig.moved->value().result, "control-run");
  ASSERT_EQ(rig.moved->value().rounds.size(), 1u);
  EXPECT_GE(rig.moved->value().rounds[0].sent_bytes, 1'000'000u);
  EXPECT_TRUE(rig.world.source_runs());
  EXPECT_EQ(rig.world.calls("source pause"), 0);
  EXPECT_EQ(rig.source_guest.log.gets, 0);
  ASSERT_FALSE(*rig.received);
}

TEST(MigrationEngineTest, PassesOnWhyAGuestIsRefused) {
  MigrationRig rig;
  rig.refusal = make_error(ErrorKind::kHost, "page size: 4096 there, 65536 here");
  rig.run();
  rig.expect_stayed();
  EXPECT_THAT(rig.error(),
              HasSubstr("there:4444 refuses the guest: page size: 4096 there, 65536 here"));
  EXPECT_THAT(rig.error(), HasSubstr("the guest runs on here"));
  EXPECT_EQ(rig.world.calls("source pause"), 0);
}

TEST(MigrationEngineTest, SaysThatNobodyIsThere) {
  MigrationRig rig;
  auto gone = TcpListener::listen({"127.0.0.1", 0}).value().address();
  FaultyConnector nowhere(gone, rig.plan);
  Source source(rig.source_guest, nowhere, rig.source_records, rig.manifest, "there:4444",
                rig.options);
  const auto moved = source.run();
  ASSERT_FALSE(moved);
  EXPECT_THAT(moved.error().message(), HasSubstr("cannot connect to " + gone.text()));
  EXPECT_TRUE(rig.world.source_runs());
}

TEST(MigrationEngineTest, SaysThatSomethingElseAnswers) {
  MigrationRig rig;
  auto listener = TcpListener::listen({"127.0.0.1", 0}).value();
  std::thread other([&] {
    TcpChannel channel(listener.accept(kLong).value());
    const std::string banner = "SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3\r\n";
    EXPECT_TRUE(write_bytes(channel, std::as_bytes(std::span(banner))));
    std::array<std::byte, 48> preamble{};
    EXPECT_TRUE(read_bytes(channel, preamble));
  });
  FaultyConnector wrong(listener.address(), rig.plan);
  Source source(rig.source_guest, wrong, rig.source_records, rig.manifest, "there:4444",
                rig.options);
  const auto moved = source.run();
  other.join();
  ASSERT_FALSE(moved);
  EXPECT_THAT(moved.error().message(), HasSubstr("does not speak this protocol"));
}

// --- Cancel ---

void expect_cancelled(MigrationRig& rig) {
  rig.expect_stayed(ErrorKind::kInterrupted);
  EXPECT_EQ(rig.error(), "the migration was cancelled; the guest runs on here");
  EXPECT_FALSE(rig.source->cancel()) << "there is nothing to cancel any more";
}

TEST(MigrationEngineTest, IsCancelledWhileItConnects) {
  MigrationRig rig;
  rig.connector.on_connect = [&rig] { EXPECT_TRUE(rig.source->cancel()); };
  rig.run();
  expect_cancelled(rig);
}

TEST(MigrationEngineTest, IsCancelledAtAnyMessageBeforeTheCommit) {
  for (const auto at :
       {MessageType::kManifest, MessageType::kAccept, MessageType::kRoundEnd,
        MessageType::kRoundAck, MessageType::kRehearse, MessageType::kRehearsed,
        MessageType::kState, MessageType::kPrepared, MessageType::kVerify, MessageType::kDigest}) {
    SCOPED_TRACE(to_string(at));
    MigrationRig rig;
    rig.options.verify = true;
    rig.plan.on_message = [&rig, at](bool /*outgoing*/, MessageType type) {
      if (type == at) static_cast<void>(rig.source->cancel());
    };
    rig.run();
    expect_cancelled(rig);
  }
}

TEST(MigrationEngineTest, IsCancelledInAnyCallOfTheGuest) {
  for (const auto* at : {"source pause 1", "source save 1", "source resume 1", "source pause 2",
                         "source save 2", "source release 1"}) {
    SCOPED_TRACE(at);
    MigrationRig rig;
    rig.world.on_call = [&rig, at](const std::string& call) {
      if (call == at) {
        EXPECT_TRUE(rig.source->cancel());
      }
    };
    rig.run();
    expect_cancelled(rig);
  }
}

TEST(MigrationEngineTest, IsNotCancelledBehindTheCommit) {
  MigrationRig rig;
  rig.world.on_call = [&rig](const std::string& call) {
    if (call == "destination acquire 1") {
      EXPECT_FALSE(rig.source->cancel());
    }
  };
  rig.run();
  rig.expect_arrived();
}

TEST(MigrationEngineTest, IsCancelledAtTheDestinationWheneverTheGuestDoesNotRunThere) {
  for (const auto* at : {"destination restore 1", "destination restore 2", "source release 1",
                         "destination acquire 1"}) {
    SCOPED_TRACE(at);
    MigrationRig rig;
    rig.world.on_call = [&rig, at](const std::string& call) {
      if (call == at) rig.destination->cancel();
    };
    rig.run();
    rig.expect_stayed();
  }
}

// --- Guests that fail ---

TEST(MigrationEngineTest, SurvivesWhateverTheSourcesGuestCannotDo) {
  for (const auto* failing : {"source pause 1", "source save 1", "source resume 1",
                              "source pause 2", "source save 2", "source release 1"}) {
    SCOPED_TRACE(failing);
    MigrationRig rig;
    rig.world.failing = failing;
    rig.run();
    rig.expect_stayed();
    EXPECT_THAT(rig.error(), HasSubstr(fmt::format("{} does not work", failing)));
    EXPECT_THAT(rig.received->error().message(),
                HasSubstr(fmt::format("has given up: {} does not work", failing)));
  }
}

TEST(MigrationEngineTest, SurvivesWhateverTheDestinationsGuestCannotDo) {
  for (const auto* failing :
       {"destination restore 1", "destination restore 2", "destination acquire 1"}) {
    SCOPED_TRACE(failing);
    MigrationRig rig;
    rig.world.failing = failing;
    rig.run();
    rig.expect_stayed();
    EXPECT_THAT(rig.error(), HasSubstr(fmt::format("{} does not work", failing)));
    EXPECT_EQ(rig.decision(), Outcome::kDiscarded);
  }
}

TEST(MigrationEngineTest, TriesUntilItHasItsDisksAgain) {
  MigrationRig rig;
  rig.world.failing = "source reacquire 1";
  rig.world.on_call = [&rig](const std::string& call) {
    if (call == "source release 1") {
      EXPECT_TRUE(rig.source->cancel());
    }
  };
  rig.run();
  expect_cancelled(rig);
  EXPECT_EQ(rig.world.calls("source reacquire"), 2);
}

TEST(MigrationEngineTest, AGuestThatDoesNotStartOnceItIsDecidedIsTheDestinationsAllTheSame) {
  MigrationRig rig;
  rig.world.failing = "destination start 1";
  rig.run();
  ASSERT_TRUE(*rig.moved) << rig.error();
  EXPECT_FALSE(*rig.received);
  EXPECT_EQ(rig.source->state(), SourceState::kDone);
  EXPECT_FALSE(rig.world.source_runs());
  EXPECT_EQ(rig.decision(), Outcome::kStarted);
}

TEST(MigrationEngineTest, LearnsThatNothingCouldBeRecorded) {
  MigrationRig rig;
  rig.world.on_call = [&rig](const std::string& call) {
    if (call == "destination acquire 1") std::filesystem::remove_all(rig.destination_folder);
  };
  rig.run();
  rig.expect_stayed();
  EXPECT_THAT(rig.error(), HasSubstr("could not start the guest"));
}

// --- Connections that fail ---

// Whatever fails at whichever message, one of both has the guest in the end.
class MigrationFaultTest : public ::testing::TestWithParam<std::tuple<bool, Fault, bool>> {};

TEST_P(MigrationFaultTest, LeavesTheGuestAtExactlyOneSide) {
  const auto [outgoing, fault, verify] = GetParam();
  std::size_t number = 0;
  for (bool fired = true; fired; ++number) {
    SCOPED_TRACE(fmt::format("message {}", number));
    ASSERT_LT(number, 100u);
    MigrationRig rig(FaultPlan::At{outgoing, number, std::nullopt, fault},
                     fault == Fault::kStall ? kSilence : std::chrono::milliseconds(kLong));
    rig.options.verify = verify;
    rig.run();
    fired = rig.plan.fired();
    const auto sent = rig.plan.sent();
    const bool committed = std::ranges::count(sent, MessageType::kCommit) > 0;
    if (*rig.moved) {
      EXPECT_TRUE(committed);
      rig.expect_arrived();
    } else {
      rig.expect_stayed();
    }
    EXPECT_TRUE(fired || fault == Fault::kStall || *rig.moved) << rig.error();
    if (HasFailure()) return;
  }
  EXPECT_GE(number, outgoing ? 8u : 6u) << "every message was met";
}

INSTANTIATE_TEST_SUITE_P(Everywhere, MigrationFaultTest,
                         ::testing::Combine(::testing::Bool(),
                                            ::testing::Values(Fault::kCut, Fault::kCutAfter,
                                                              Fault::kGarbage, Fault::kStall),
                                            ::testing::Bool()));

FaultPlan::At commit_is(Fault fault) {
  return {true, 0, MessageType::kCommit, fault};
}

TEST(MigrationDoubtTest, AsksAndHearsThatTheGuestWasStarted) {
  MigrationRig rig(commit_is(Fault::kCutAfter));
  rig.run();
  rig.expect_arrived();
  EXPECT_EQ(rig.world.calls("source doubt"), 1);
}

TEST(MigrationDoubtTest, AsksAndHearsThatItNeverWillBe) {
  MigrationRig rig(commit_is(Fault::kCut));
  rig.run();
  rig.expect_stayed();
  EXPECT_EQ(rig.world.calls("source doubt"), 1);
  EXPECT_EQ(rig.decision(), Outcome::kDiscarded);
  EXPECT_THAT(rig.error(), HasSubstr("there:4444 did not start the guest"));
}

TEST(MigrationDoubtTest, ADestinationThatHasToldOthersThatItWillNotStartDoesNot) {
  MigrationRig rig;
  rig.world.on_call = [&rig](const std::string& call) {
    if (call != "destination acquire 1") return;
    ASSERT_TRUE(rig.destination_records.decide(rig.manifest.id, Outcome::kDiscarded, 1));
  };
  rig.run();
  rig.expect_stayed();
}

TEST(MigrationDoubtTest, WaitsForTheOperatorWhereNobodyAnswers) {
  for (const bool resume : {true, false}) {
    SCOPED_TRACE(resume);
    MigrationRig rig(commit_is(resume ? Fault::kCut : Fault::kCutAfter));
    rig.plan.no_answers = true;
    EXPECT_FALSE(rig.source.has_value());
    rig.start();
    EXPECT_FALSE(rig.source->resolve(resume)) << "not yet";
    rig.wait_for_state(SourceState::kInDoubt);
    EXPECT_FALSE(rig.source->cancel());
    EXPECT_FALSE(rig.world.source_runs());
    while (rig.record() != SourceOutcome::kInDoubt) std::this_thread::yield();
    EXPECT_TRUE(rig.source->resolve(resume));
    rig.wait();
    if (resume) {
      rig.expect_stayed();
      EXPECT_EQ(rig.record(), SourceOutcome::kResumed);
    } else {
      ASSERT_TRUE(*rig.moved);
      EXPECT_EQ(rig.source->state(), SourceState::kDone);
      EXPECT_FALSE(rig.world.source_runs());
      EXPECT_EQ(rig.record(), SourceOutcome::kDiscarded);
    }
    EXPECT_FALSE(rig.source->resolve(!resume)) << "it is resolved";
  }
}

TEST(MigrationDoubtTest, IsAbandonedInDoubtWithTheGuestStandingStill) {
  MigrationRig rig(commit_is(Fault::kCutAfter));
  rig.plan.no_answers = true;
  rig.start();
  rig.wait_for_state(SourceState::kInDoubt);
  rig.source->abandon();
  rig.wait();
  ASSERT_FALSE(*rig.moved);
  EXPECT_EQ(rig.moved->error().kind(), ErrorKind::kInDoubt);
  EXPECT_EQ(rig.record(), SourceOutcome::kInDoubt);
  EXPECT_FALSE(rig.world.source_runs());
}

// --- Peers that are no peers ---

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
    link = std::make_unique<PeerLink>(
        open({.kind = ConnectionKind::kControl, .id = rig_.manifest.id}).value(), kLong);
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
    EXPECT_FALSE(link.receive(kLong));
  }
  source.arrive();
  ASSERT_TRUE(source.link->send(Cancel{"enough"}));
  EXPECT_FALSE(received.get());
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
    EXPECT_TRUE(link->send(Accept{{}, 1, ""}));
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

}  // namespace
}  // namespace vmm::migration
