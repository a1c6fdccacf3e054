#include "migration/control_link.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <thread>

#include "base/bytes.h"
#include "channel_fakes.h"

namespace vmm::migration {
namespace {

using namespace std::chrono_literals;

constexpr auto kHeartbeat = static_cast<std::uint32_t>(MessageType::kHeartbeat);
constexpr auto kSmall = static_cast<std::uint32_t>(MessageType::kDigest);    // up to 32 bytes
constexpr auto kLarge = static_cast<std::uint32_t>(MessageType::kManifest);  // up to 1 MiB

ControlLink::Options options(std::chrono::milliseconds timeout = kLong) {
  return {.timeout = timeout};
}

std::vector<std::byte> bytes(std::size_t size, unsigned value = 0x5a) {
  return std::vector<std::byte>(size, static_cast<std::byte>(value));
}

std::vector<std::byte> frame(std::uint32_t type, std::uint32_t length,
                             std::span<const std::byte> payload = {}) {
  ByteWriter out;
  out.put(type);
  out.put(length);
  out.put_bytes(payload);
  return out.take();
}

// What a link says that reads `input`, where the peer then closes.
struct Heard {
  std::vector<Frame> frames;
  std::string error;
};
Heard heard_from(std::vector<std::byte> input) {
  auto channel = std::make_unique<ScriptedChannel>(std::move(input));
  channel->close_at_end();
  ControlLink link(std::move(channel), options());
  Heard outcome;
  for (;;) {
    auto received = link.receive(kLong);
    if (!received) {
      outcome.error = received.error().message();
      EXPECT_EQ(received.error().kind(), ErrorKind::kMigration);
      return outcome;
    }
    outcome.frames.push_back(*std::move(received).value());
  }
}

TEST(ControlLinkTest, CarriesMessagesBothWays) {
  TcpPairs pair(1);
  ControlLink ours(std::move(pair.ours[0]), options());
  ControlLink theirs(std::move(pair.theirs[0]), options());
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(ours.send(kLarge, bytes(1 << 20)));
    ASSERT_TRUE(ours.send(kSmall));
    const auto large = theirs.receive(kLong).value();
    EXPECT_EQ(large->type, kLarge);
    EXPECT_EQ(large->payload, bytes(1 << 20));
    EXPECT_EQ(theirs.receive(kLong).value()->type, kSmall);
    ASSERT_TRUE(theirs.send(kSmall, bytes(3)));
    EXPECT_EQ(ours.receive(kLong).value()->payload, bytes(3));
  }
  EXPECT_EQ(ours.receive(0ms).value().has_value(), false) << "nothing has come";
}

TEST(ControlLinkTest, TellsWhenAMessageCameHoweverLongItWaitsToBeRead) {
  const auto before = std::chrono::steady_clock::now();
  auto channel = std::make_unique<ScriptedChannel>(frame(kSmall, 0));
  channel->close_at_end();
  ControlLink link(std::move(channel), options());
  while (!link.error()) std::this_thread::sleep_for(1ms);  // it has read to the end
  const auto after = std::chrono::steady_clock::now();
  const auto arrived = link.receive(kLong).value()->arrived;
  EXPECT_GE(arrived, before);
  EXPECT_LE(arrived, after);
}

TEST(ControlLinkTest, RefusesToSendWhatTheProtocolDoesNotAllowAndStaysUsable) {
  TcpPairs pair(1);
  ControlLink ours(std::move(pair.ours[0]), options());
  ControlLink theirs(std::move(pair.theirs[0]), options());
  EXPECT_FALSE(ours.send(kSmall, bytes(33)));
  EXPECT_FALSE(ours.send(77));
  ASSERT_TRUE(ours.send(kSmall, bytes(32)));
  EXPECT_EQ(theirs.receive(kLong).value()->payload, bytes(32));
}

TEST(ControlLinkTest, FailsOnFramesThatAreWrong) {
  struct Case {
    const char* name;
    std::vector<std::byte> input;
    const char* error;
  };
  const Case cases[] = {
      {"unknown type", frame(77, 0), "peer sent unknown message type 77"},
      {"too long", frame(kSmall, 33, bytes(33)),
       "peer sent a DIGEST message of 33 bytes, at most 32 are allowed"},
      {"longest of all", frame(kLarge, 0xffff'ffff),
       "peer sent a MANIFEST message of 4294967295 bytes, at most 1048576 are allowed"},
      {"heartbeat with payload", frame(kHeartbeat, 1, bytes(1)),
       "peer sent a HEARTBEAT message of 1 bytes, at most 0 are allowed"},
      {"nothing", {}, "peer closed"},
      {"a cut header", bytes(7, 0), "peer closed"},
      {"a cut payload", frame(kSmall, 32, bytes(31)), "peer closed"},
  };
  for (const auto& [name, input, error] : cases) {
    const auto outcome = heard_from(input);
    EXPECT_EQ(outcome.error, error) << name;
    EXPECT_TRUE(outcome.frames.empty()) << name;
  }
}

TEST(ControlLinkTest, HandsOutWhatCameBeforeTheFailure) {
  auto input = frame(kSmall, 2, bytes(2));
  for (const auto& next : {frame(kHeartbeat, 0), frame(kLarge, 1, bytes(1)), frame(77, 0)}) {
    input.insert(input.end(), next.begin(), next.end());
  }
  const auto outcome = heard_from(input);
  ASSERT_EQ(outcome.frames.size(), 2u) << "heartbeats are not handed out";
  EXPECT_EQ(outcome.frames[0].payload, bytes(2));
  EXPECT_EQ(outcome.frames[1].type, kLarge);
  EXPECT_EQ(outcome.error, "peer sent unknown message type 77");
}

TEST(ControlLinkTest, BoundsWhatAPeerCanMakeItKeep) {
  for (const auto type : {kSmall, kLarge}) {
    const auto one =
        frame(type, type == kLarge ? 1 << 20 : 0, bytes(type == kLarge ? std::size_t{1} << 20 : 0));
    std::vector<std::byte> input;
    for (int i = 0; i < 70; ++i) input.insert(input.end(), one.begin(), one.end());
    auto channel = std::make_unique<ScriptedChannel>(std::move(input));
    std::promise<void> failed;
    auto with_event = options();
    with_event.on_failure = [&] { failed.set_value(); };
    ControlLink link(std::move(channel), std::move(with_event));
    // Nobody receives until it is over.
    failed.get_future().wait();
    std::size_t received = 0;
    while (link.receive(kLong)) ++received;
    EXPECT_EQ(received, type == kLarge ? 32u : 64u);
    EXPECT_EQ(link.send(kSmall).error().message(), "peer sends messages that nobody asked for");
  }
}

TEST(ControlLinkTest, StaysAliveByHeartbeatsAlone) {
  constexpr auto kTimeout = 400ms;
  TcpPairs pair(1);
  ControlLink ours(std::move(pair.ours[0]), options(kTimeout));
  ControlLink theirs(std::move(pair.theirs[0]), options(kTimeout));
  EXPECT_FALSE(ours.receive(3 * kTimeout).value().has_value());
  ASSERT_TRUE(theirs.send(kSmall));
  EXPECT_TRUE(ours.receive(kLong).value().has_value());
}

TEST(ControlLinkTest, NoticesASilentPeer) {
  TcpPairs pair(1);
  std::atomic<int> failures = 0;
  auto with_event = options(40ms);
  with_event.on_failure = [&] { ++failures; };
  ControlLink link(std::move(pair.ours[0]), std::move(with_event));
  const auto received = link.receive(kLong);
  ASSERT_FALSE(received);
  EXPECT_EQ(received.error().message(), link.peer() + " sent nothing for 0.04 s");
  EXPECT_EQ(link.send(kSmall).error().message(), received.error().message());
  while (failures == 0) std::this_thread::yield();
  EXPECT_EQ(failures, 1);
}

TEST(ControlLinkTest, FailsTheOtherSideWhenItGoes) {
  TcpPairs pair(1);
  auto ours = std::make_unique<ControlLink>(std::move(pair.ours[0]), options());
  ControlLink theirs(std::move(pair.theirs[0]), options());
  ASSERT_TRUE(ours->send(kSmall));
  ASSERT_TRUE(theirs.receive(kLong));
  ours.reset();
  EXPECT_THAT(theirs.receive(kLong).error().message(),
              ::testing::EndsWith("closed the connection"));
}

TEST(ControlLinkTest, IsInterruptedWhileItReceivesAndWhileItSends) {
  TcpPairs pair(1);
  std::atomic<int> failures = 0;
  auto with_event = options();
  with_event.on_failure = [&] { ++failures; };
  ControlLink link(std::move(pair.ours[0]), std::move(with_event));
  std::jthread sender([&] {
    // Nobody reads: at some point there is no more room.
    Result<> sent = success();
    while (sent) sent = link.send(kLarge, bytes(1 << 20));
    EXPECT_THAT(sent.error().message(), ::testing::EndsWith("was interrupted"));
  });
  std::jthread interrupter([&] {
    std::this_thread::sleep_for(20ms);
    link.interrupt();
  });
  const auto received = link.receive(kLong);
  ASSERT_FALSE(received);
  EXPECT_THAT(received.error().message(), ::testing::EndsWith("was interrupted"));
  sender.join();
  EXPECT_EQ(failures, 0) << "who interrupts knows";
}

TEST(ControlLinkTest, KeepsMessagesOfSeveralThreadsWhole) {
  TcpPairs pair(1);
  ControlLink ours(std::move(pair.ours[0]), options(20s));
  ControlLink theirs(std::move(pair.theirs[0]), options(20s));
  std::vector<std::jthread> senders;
  for (unsigned i = 0; i < 4; ++i) {
    senders.emplace_back([&ours, i] {
      for (int n = 0; n < 10; ++n) EXPECT_TRUE(ours.send(kLarge, bytes(10'000 + i, i)));
    });
  }
  for (int n = 0; n < 40; ++n) {
    const auto received = theirs.receive(kLong);
    ASSERT_TRUE(received && received.value());
    const auto& payload = received.value()->payload;
    const auto i = payload.size() - 10'000;
    EXPECT_EQ(payload, bytes(10'000 + i, static_cast<unsigned>(i)));
  }
}

}  // namespace
}  // namespace vmm::migration
