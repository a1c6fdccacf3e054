#include "migration/tcp_channel.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <csignal>
#include <thread>

#include "channel_fakes.h"

namespace vmm::migration {
namespace {

using namespace std::chrono_literals;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::StartsWith;

std::vector<std::byte> pattern(std::size_t size) {
  std::vector<std::byte> bytes(size);
  for (std::size_t i = 0; i < size; ++i) bytes[i] = static_cast<std::byte>(i * 7 + i / 251);
  return bytes;
}

TEST(TcpAddressTest, IsReadFromTextAndWrittenBack) {
  struct Case {
    const char* text;
    const char* host;
    std::uint16_t port;
  };
  for (const auto& [text, host, port] :
       {Case{"192.0.2.7:4444", "192.0.2.7", 4444}, Case{"host.example:1", "host.example", 1},
        Case{"[2001:db8::1]:65535", "2001:db8::1", 65535}, Case{":0", "", 0}}) {
    const auto address = TcpAddress::parse(text).value();
    EXPECT_EQ(address.host, host);
    EXPECT_EQ(address.port, port);
    EXPECT_EQ(address.text(), text);
  }
}

TEST(TcpAddressTest, RefusesWhatIsNoAddress) {
  for (const char* text :
       {"", "host", "4444", "host:", "host:x", "host:65536", "host:-1", "host:1x",
        "2001:db8::1:4444", "[2001:db8::1]", "[host]:1", "a b:1", "[]:1"}) {
    const auto address = TcpAddress::parse(text);
    ASSERT_FALSE(address) << text;
    EXPECT_EQ(address.error().kind(), ErrorKind::kUsage);
    EXPECT_THAT(address.error().message(), StartsWith(fmt::format("'{}' is not an address", text)));
  }
}

TEST(TcpConnectTest, SaysWhyItFailed) {
  TcpAddress closed;
  {
    auto listener = TcpListener::listen({"127.0.0.1", 0}).value();
    closed = listener.address();
  }
  const auto refused = tcp_connect(closed, kLong);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().kind(), ErrorKind::kMigration);
  EXPECT_EQ(refused.error().message(),
            fmt::format("cannot connect to {}: Connection refused", closed.text()));

  const auto unknown = tcp_connect({"no-such-host.invalid", 1}, kLong);
  ASSERT_FALSE(unknown);
  EXPECT_THAT(unknown.error().message(),
              HasSubstr("cannot connect to no-such-host.invalid:1: Host "));

  // Broadcast is nowhere to connect to, on any host.
  const auto unreachable = tcp_connect({"255.255.255.255", 1}, kLong);
  ASSERT_FALSE(unreachable);
  EXPECT_THAT(unreachable.error().message(), StartsWith("cannot connect to 255.255.255.255:1: "));

  const auto nothing = tcp_connect({"", 1}, kLong);
  ASSERT_FALSE(nothing);
  EXPECT_EQ(nothing.error().kind(), ErrorKind::kUsage);
}

TEST(TcpConnectTest, GivesUpWhenNobodyAnswers) {
  // In no time at all nobody does.
  auto listener = TcpListener::listen({"127.0.0.1", 0}).value();
  const auto late = tcp_connect(listener.address(), 0ms);
  ASSERT_FALSE(late);
  EXPECT_THAT(late.error().message(), EndsWith("no answer for 0 s"));
}

TEST(TcpListenerTest, SaysWhyItCannotListen) {
  auto first = TcpListener::listen({"127.0.0.1", 0}).value();
  const auto second = TcpListener::listen(first.address());
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().message(),
            fmt::format("cannot listen on {}: Address already in use", first.address().text()));
  EXPECT_FALSE(TcpListener::listen({"no-such-host.invalid", 1}));
}

TEST(TcpListenerTest, ListensOnAllAddressesWhenNoneIsGiven) {
  auto listener = TcpListener::listen({"", 0}).value();
  ASSERT_NE(listener.address().port, 0);
  const auto ours = tcp_connect({"127.0.0.1", listener.address().port}, kLong);
  ASSERT_TRUE(ours);
  EXPECT_EQ(ours.value()->peer(), fmt::format("127.0.0.1:{}", listener.address().port));
  EXPECT_THAT(listener.accept(kLong).value()->peer(), StartsWith("127.0.0.1:"));
}

TEST(TcpListenerTest, IsInterruptedWhileItWaitsAndEverAfter) {
  auto listener = TcpListener::listen({"127.0.0.1", 0}).value();
  std::jthread interrupter([&] { listener.interrupt(); });
  for (int i = 0; i < 2; ++i) {
    const auto accepted = listener.accept(kLong);
    ASSERT_FALSE(accepted);
    EXPECT_EQ(accepted.error().kind(), ErrorKind::kInterrupted);
  }
}

TEST(TcpChannelTest, CarriesPartsOfAnySizeInOrder) {
  TcpPairs pair(1);
  const auto sent = pattern(9'000'003);
  // More parts than one system call takes, empty ones among them, and then large ones.
  std::vector<iovec> parts;
  auto* data = const_cast<std::byte*>(sent.data());
  std::size_t at = 0;
  for (std::size_t i = 0; i < 3000; ++i) {
    const std::size_t size = i % 5;
    parts.push_back({data + at, size});
    at += size;
  }
  parts.push_back({data + at, sent.size() - at});
  std::jthread writer([&] { EXPECT_TRUE(pair.ours[0]->write(parts)); });
  std::vector<std::byte> received(sent.size());
  const std::array into{iovec{received.data(), 1}, iovec{received.data() + 1, 0},
                        iovec{received.data() + 1, received.size() - 1}};
  ASSERT_TRUE(pair.theirs[0]->read(into));
  EXPECT_EQ(received, sent);
}

TEST(TcpChannelTest, CarriesLivePartsInOrderAndReadsSmallOnesAtOnce) {
  TcpPairs pair(1);
  auto data = pattern(3'000'000);
  const auto sent = data;
  // A small part, a large one that fills no page, small ones, and a large one at the end.
  const std::size_t small = Channel::kReferredBytes - 1;
  std::vector<iovec> parts;
  std::size_t at = 0;
  for (const std::size_t size : {std::size_t{24}, 1'234'567ul, small, std::size_t{0}, small}) {
    parts.push_back({data.data() + at, size});
    at += size;
  }
  parts.push_back({data.data() + at, data.size() - at});
  std::vector<std::byte> received(sent.size());
  std::jthread reader([&] { EXPECT_TRUE(read_bytes(*pair.theirs[0], received)); });
  ASSERT_TRUE(pair.ours[0]->write_live(parts));
  reader.join();
  EXPECT_EQ(received, sent);

  parts.resize(1);
  ASSERT_TRUE(pair.ours[0]->write_live(parts));
  std::ranges::fill(data, std::byte{0});
  received.resize(parts[0].iov_len);
  ASSERT_TRUE(read_bytes(*pair.theirs[0], received));
  EXPECT_TRUE(std::ranges::equal(received, std::span(sent).first(received.size())));
}

TEST(TcpChannelTest, FailsToWriteLiveWhereThePeerIsGoneOrTakesNothing) {
  ::signal(SIGPIPE, SIG_IGN);
  TcpPairs pair(2);
  auto data = pattern(64 << 20);
  const iovec part{.iov_base = data.data(), .iov_len = data.size()};
  pair.theirs[0].reset();
  Result<> written = success();
  while (written) written = pair.ours[0]->write_live(std::span(&part, 1));
  EXPECT_THAT(written.error().message(),
              StartsWith("lost the connection to " + pair.ours[0]->peer() + ": "));

  pair.ours[1]->set_timeout(20ms);
  written = pair.ours[1]->write_live(std::span(&part, 1));
  ASSERT_FALSE(written);
  EXPECT_THAT(written.error().message(), HasSubstr(pair.ours[1]->peer()));
  pair.ours[1]->interrupt();
  written = pair.ours[1]->write_live(std::span(&part, 1));
  ASSERT_FALSE(written);
  EXPECT_THAT(written.error().message(), EndsWith("was interrupted"));
}

TEST(TcpChannelTest, CarriesBothWaysAtOnce) {
  TcpPairs pair(1);
  const auto data = pattern(5'000'000);
  const auto both = [&](Channel& channel) {
    std::jthread writer([&] { EXPECT_TRUE(write_bytes(channel, data)); });
    std::vector<std::byte> received(data.size());
    EXPECT_TRUE(read_bytes(channel, received));
    EXPECT_EQ(received, data);
  };
  std::jthread other([&] { both(*pair.theirs[0]); });
  both(*pair.ours[0]);
}

TEST(TcpChannelTest, TellsThatThePeerClosed) {
  TcpPairs pair(1);
  const auto peer = pair.theirs[0]->peer();
  ASSERT_TRUE(write_bytes(*pair.ours[0], pattern(10)));
  pair.ours.clear();
  std::vector<std::byte> received(10);
  EXPECT_TRUE(read_bytes(*pair.theirs[0], received)) << "what was sent before still arrives";
  const auto read = read_bytes(*pair.theirs[0], received);
  ASSERT_FALSE(read);
  EXPECT_EQ(read.error().kind(), ErrorKind::kMigration);
  EXPECT_EQ(read.error().message(), peer + " closed the connection");
  Result<> written = success();
  while (written) written = write_bytes(*pair.theirs[0], pattern(100'000));
  EXPECT_THAT(written.error().message(), StartsWith("lost the connection to " + peer + ": "));
}

TEST(TcpChannelTest, GivesUpOnAPeerThatSendsOrTakesNothing) {
  TcpPairs pair(1);
  auto& channel = *pair.ours[0];
  channel.set_timeout(20ms);
  std::vector<std::byte> received(1);
  const auto read = read_bytes(channel, received);
  ASSERT_FALSE(read);
  EXPECT_EQ(read.error().message(), channel.peer() + " sent nothing for 0.02 s");
  const auto data = pattern(64 << 20);
  const auto written = write_bytes(channel, data);
  ASSERT_FALSE(written);
  EXPECT_THAT(written.error().message(), HasSubstr(channel.peer()));
}

TEST(TcpChannelTest, TakesANewTimeoutForTheNextOperation) {
  TcpPairs pair(1);
  pair.theirs[0]->set_timeout(1ms);
  pair.theirs[0]->set_timeout(kNoTimeout);
  std::promise<void> reading;
  std::jthread writer([&] {
    reading.get_future().wait();
    std::this_thread::sleep_for(50ms);
    EXPECT_TRUE(write_bytes(*pair.ours[0], pattern(1)));
  });
  std::vector<std::byte> received(1);
  reading.set_value();
  EXPECT_TRUE(read_bytes(*pair.theirs[0], received));
}

TEST(TcpChannelTest, IsInterruptedWhileItReadsOrWritesAndEverAfter) {
  TcpPairs pair(2);
  const auto data = pattern(64 << 20);
  std::vector<std::byte> received(1);
  const auto interrupted = "the connection to {} was interrupted";
  std::jthread interrupter([&] {
    std::this_thread::sleep_for(20ms);
    for (const auto& channel : pair.ours) channel->interrupt();
  });
  for (int i = 0; i < 2; ++i) {
    const auto read = read_bytes(*pair.ours[0], received);
    ASSERT_FALSE(read);
    EXPECT_EQ(read.error().message(), fmt::format(fmt::runtime(interrupted), pair.ours[0]->peer()));
    const auto written = write_bytes(*pair.ours[1], data);
    ASSERT_FALSE(written);
    EXPECT_EQ(written.error().message(),
              fmt::format(fmt::runtime(interrupted), pair.ours[1]->peer()));
  }
}

TEST(TcpConnectorTest, ConnectsAgainAndAgain) {
  auto listener = TcpListener::listen({"localhost", 0}).value();
  TcpConnector connector(listener.address());
  for (int i = 0; i < 3; ++i) {
    auto ours = connector.connect(kLong).value();
    auto theirs = listener.accept(kLong).value();
    ASSERT_TRUE(write_bytes(*ours, pattern(3)));
  }
}

}  // namespace
}  // namespace vmm::migration
