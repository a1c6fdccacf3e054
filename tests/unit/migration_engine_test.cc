// Source and Destination with fake guests over loopback: what they do when all goes well, when they
// are cancelled, and when a guest fails.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <mutex>
#include <string>
#include <thread>

#include "migration_rig.h"

namespace vmm::migration {
namespace {

using namespace std::chrono_literals;
using ::testing::HasSubstr;

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

// However long messages are under way, or the two sides are busy: they know each other's clock from
// the answer that came quickest.
TEST(MigrationEngineTest, CountersGoOnFromWhenTheyWereRead) {
  using Clock = std::chrono::steady_clock;
  MigrationRig rig;
  rig.options.verify = true;
  // By the one clock that both sides have here.
  std::mutex mutex;
  std::map<std::string, Clock::time_point> at;
  rig.world.on_call = [&](const std::string& call) {
    {
      const std::lock_guard lock(mutex);
      at[call] = Clock::now();
    }
    // They have gone on while the guest was being paused and until they were read, which here
    // takes long.
    if (call == "source pause 2" || call == "source save 2") std::this_thread::sleep_for(200ms);
  };
  // Questions and answers are late in turns, but for one of them; so is what follows.
  constexpr std::size_t kQuick = 5;
  std::vector<Clock::time_point> asked;
  std::vector<Clock::time_point> answered;
  rig.plan.on_message = [&](bool /*outgoing*/, MessageType type) {
    std::unique_lock lock(mutex);
    if (type == MessageType::kAskTime) {
      asked.push_back(Clock::now());
      if (asked.size() % 2 == 0) std::this_thread::sleep_for(50ms);
    } else if (type == MessageType::kTime) {
      if (asked.size() % 2 == 1 && asked.size() != kQuick) std::this_thread::sleep_for(50ms);
      answered.push_back(Clock::now());
    } else if (type == MessageType::kPrepared || type == MessageType::kDigest ||
               type == MessageType::kCommit) {
      lock.unlock();
      std::this_thread::sleep_for(200ms);
    }
  };
  rig.run();
  rig.expect_arrived();
  EXPECT_GE(rig.moved->value().parts.pause, 200ms);
  ASSERT_EQ(asked.size(), Source::kTimesAsked);
  ASSERT_EQ(answered.size(), Source::kTimesAsked);
  // The quick one took no longer than from the answer before it to the question behind it.
  const auto error = (asked[kQuick] - answered[kQuick - 2]) / 2;
  const auto saved_at = rig.destination_guest.saved_at;
  EXPECT_GE(saved_at, at["source save 2"] + 200ms - error);
  EXPECT_LE(saved_at, at["destination restore 2"] + error);
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

}  // namespace
}  // namespace vmm::migration
