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

constexpr std::uint32_t kHeartbeat = 9;
constexpr std::uint32_t kSmall = 1;
constexpr std::uint32_t kLarge = 2;

ControlLink::Options options(std::chrono::milliseconds timeout = kLong) {
  return {.max_payload = [](std::uint32_t type) -> std::optional<std::size_t> {
            if (type == kSmall) return 16;
            if (type == kLarge) return std::size_t{1} << 20;
            return std::nullopt;
          },
          .heartbeat = kHeartbeat,
          .timeout = timeout};
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
struct Outcome {
  std::vector<Frame> frames;
  std::string error;
};
Outcome outcome_of(std::vector<std::byte> input) {
  auto channel = std::make_unique<ScriptedChannel>(std::move(input));
  channel->close_at_end();
  ControlLink link(std::move(channel), options());
  Outcome outcome;
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

TEST(ControlLinkTest, RefusesToSendWhatTheProtocolDoesNotAllowAndStaysUsable) {
  TcpPairs pair(1);
  ControlLink ours(std::move(pair.ours[0]), options());
  ControlLink theirs(std::move(pair.theirs[0]), options());
  EXPECT_FALSE(ours.send(kSmall, bytes(17)));
  EXPECT_FALSE(ours.send(77));
  ASSERT_TRUE(ours.send(kSmall, bytes(16)));
  EXPECT_EQ(theirs.receive(kLong).value()->payload, bytes(16));
}

TEST(ControlLinkTest, FailsOnFramesThatAreWrong) {
  struct Case {
    const char* name;
    std::vector<std::byte> input;
    const char* error;
  };
  const Case cases[] = {
      {"unknown type", frame(77, 0), "peer sent a message of unknown type 77"},
      {"too long", frame(kSmall, 17, bytes(17)),
       "peer sent a message of type 1 with 17 bytes, more than 16"},
      {"longest of all", frame(kLarge, 0xffff'ffff),
       "peer sent a message of type 2 with 4294967295 bytes, more than 1048576"},
      {"heartbeat with payload", frame(kHeartbeat, 1, bytes(1)),
       "peer sent a message of type 9 with 1 bytes, more than 0"},
      {"nothing", {}, "peer closed"},
      {"a cut header", bytes(7, 0), "peer closed"},
      {"a cut payload", frame(kSmall, 16, bytes(15)), "peer closed"},
  };
  for (const auto& [name, input, error] : cases) {
    const auto outcome = outcome_of(input);
    EXPECT_EQ(outcome.error, error) << name;
    EXPECT_TRUE(outcome.frames.empty()) << name;
  }
}

TEST(ControlLinkTest, HandsOutWhatCameBeforeTheFailure) {
  auto input = frame(kSmall, 2, bytes(2));
  for (const auto& next : {frame(kHeartbeat, 0), frame(kLarge, 1, bytes(1)), frame(77, 0)}) {
    input.insert(input.end(), next.begin(), next.end());
  }
  const auto outcome = outcome_of(input);
  ASSERT_EQ(outcome.frames.size(), 2u) << "heartbeats are not handed out";
  EXPECT_EQ(outcome.frames[0].payload, bytes(2));
  EXPECT_EQ(outcome.frames[1].type, kLarge);
  EXPECT_EQ(outcome.error, "peer sent a message of unknown type 77");
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
