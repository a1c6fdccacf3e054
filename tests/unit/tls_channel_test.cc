#include "migration/tls_channel.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "tls_support.h"

namespace vmm::migration {
namespace {

using namespace std::chrono_literals;
using ::testing::HasSubstr;

std::vector<std::byte> pattern(std::size_t size) {
  std::vector<std::byte> bytes(size);
  for (std::size_t i = 0; i < size; ++i) bytes[i] = static_cast<std::byte>(i * 7 + i / 251);
  return bytes;
}

class TlsChannelTest : public ::testing::Test {
 protected:
  TlsHosts hosts_;
};

TEST_F(TlsChannelTest, CarriesPartsOfAnySizeInOrder) {
  TlsPairs pair(hosts_, 1);
  const auto sent = pattern(3'000'003);
  // Headers and pages, empty parts among them, and then large ones.
  std::vector<iovec> parts;
  auto* data = const_cast<std::byte*>(sent.data());
  std::size_t at = 0;
  for (std::size_t i = 0; i < 300; ++i) {
    const std::size_t size = i % 3 == 0 ? 24 : i % 3 * 4096 - i % 5;
    parts.push_back({data + at, 0});
    parts.push_back({data + at, size});
    at += size;
  }
  parts.push_back({data + at, sent.size() - at});
  std::jthread writer([&] { EXPECT_TRUE(pair.ours[0]->write(parts)); });
  std::vector<std::byte> received(sent.size());
  const std::array into{iovec{received.data(), 1}, iovec{received.data() + 1, 0},
                        iovec{received.data() + 1, 70'000},
                        iovec{received.data() + 70'001, received.size() - 70'001}};
  ASSERT_TRUE(pair.theirs[0]->read(into));
  EXPECT_TRUE(received == sent);
}

TEST_F(TlsChannelTest, CarriesBothWaysAtOnce) {
  TlsPairs pair(hosts_, 1);
  const auto data = pattern(5'000'000);
  const auto both = [&](Channel& channel) {
    std::jthread writer([&] { EXPECT_TRUE(write_bytes(channel, data)); });
    std::vector<std::byte> received(data.size());
    EXPECT_TRUE(read_bytes(channel, received));
    EXPECT_TRUE(received == data);
  };
  std::jthread other([&] { both(*pair.theirs[0]); });
  both(*pair.ours[0]);
}

TEST_F(TlsChannelTest, ReadsAndWritesWhileTheOtherWaits) {
  TlsPairs pair(hosts_, 1);
  pair.greet();
  // Our side reads all the time; what it writes meanwhile arrives.
  std::byte last{};
  std::jthread reader([&] { EXPECT_TRUE(read_bytes(*pair.ours[0], {&last, 1})); });
  std::vector<std::byte> received(1'000'000);
  std::jthread writer([&] { EXPECT_TRUE(write_bytes(*pair.ours[0], pattern(received.size()))); });
  ASSERT_TRUE(read_bytes(*pair.theirs[0], received));
  EXPECT_TRUE(received == pattern(received.size()));
  const auto answer = pattern(2)[1];
  ASSERT_TRUE(write_bytes(*pair.theirs[0], {&answer, 1}));
  reader.join();
  EXPECT_EQ(last, answer);
}

TEST_F(TlsChannelTest, ChangesItsKeysAsItGoes) {
  TlsPairs pair(hosts_, 1, 3);
  const auto data = pattern(40 * kTlsRecord);
  const auto both = [&](Channel& channel) {
    std::jthread writer([&] { EXPECT_TRUE(write_bytes(channel, data)); });
    std::vector<std::byte> received(data.size());
    EXPECT_TRUE(read_bytes(channel, received));
    EXPECT_TRUE(received == data);
  };
  std::jthread other([&] { both(*pair.theirs[0]); });
  both(*pair.ours[0]);
}

TEST_F(TlsChannelTest, AKeyEncryptsNoMoreRecordsThanItMay) {
  auto [ours, theirs] = socket_pair();
  auto source =
      TlsEngine::create(*ours, hosts_.identity("here"), TlsSide::kSource, {peer_id("there")}, 3)
          .value();
  auto destination =
      TlsEngine::create(*theirs, hosts_.identity("there"), TlsSide::kDestination, {peer_id("here")})
          .value();
  std::vector<std::byte> output;
  // Sends what an engine has to send; how much that was.
  const auto flush = [&output](TlsEngine& engine, TcpSocket& socket) {
    output.clear();
    engine.take_output(output);
    const iovec part{output.data(), output.size()};
    if (!output.empty()) {
      EXPECT_EQ(socket.send_some(std::span(&part, 1)).value(), output.size());
    }
    return output.size();
  };
  bool done = false;
  while (!done) {
    done = source->shake_hands().value();
    flush(*source, *ours);
    done = destination->shake_hands().value() && done;
    flush(*destination, *theirs);
  }
  std::vector<std::size_t> sizes;
  for (int i = 0; i < 8; ++i) {
    std::byte byte{42};
    ASSERT_TRUE(source->encrypt({&byte, 1}));
    sizes.push_back(flush(*source, *ours));
    std::byte got{};
    ASSERT_EQ(destination->decrypt({&got, 1}).value(), 1u);
    EXPECT_EQ(got, byte);
  }
  // A message that changes the key goes before each fourth.
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    EXPECT_EQ(sizes[i] > sizes[0], i % 3 == 0 && i > 0) << i;
  }
}

TEST_F(TlsChannelTest, TellsThatThePeerClosed) {
  TlsPairs pair(hosts_, 1);
  const auto peer = pair.theirs[0]->peer();
  pair.greet();
  ASSERT_TRUE(write_bytes(*pair.ours[0], pattern(10)));
  pair.ours.clear();
  std::vector<std::byte> received(10);
  EXPECT_TRUE(read_bytes(*pair.theirs[0], received)) << "what was sent before still arrives";
  const auto read = read_bytes(*pair.theirs[0], received);
  ASSERT_FALSE(read);
  EXPECT_EQ(read.error().kind(), ErrorKind::kMigration);
  EXPECT_EQ(read.error().message(), peer + " closed the connection");
  EXPECT_FALSE(write_bytes(*pair.theirs[0], pattern(100'000)));
}

TEST_F(TlsChannelTest, GivesUpOnAPeerThatSendsOrTakesNothing) {
  TlsPairs pair(hosts_, 1);
  pair.greet();
  auto& channel = *pair.ours[0];
  channel.set_timeout(20ms);
  std::vector<std::byte> received(1);
  const auto read = read_bytes(channel, received);
  ASSERT_FALSE(read);
  EXPECT_EQ(read.error().message(), channel.peer() + " sent nothing for 0.02 s");
  const auto written = write_bytes(channel, pattern(64 << 20));
  ASSERT_FALSE(written);
  EXPECT_THAT(written.error().message(), HasSubstr(channel.peer()));
}

TEST_F(TlsChannelTest, TakesANewTimeoutForTheNextOperation) {
  TlsPairs pair(hosts_, 1);
  pair.greet();
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

TEST_F(TlsChannelTest, IsInterruptedWhileItReadsOrWritesAndEverAfter) {
  TlsPairs pair(hosts_, 2);
  pair.greet();
  const auto data = pattern(64 << 20);
  std::jthread interrupter([&] {
    std::this_thread::sleep_for(20ms);
    for (const auto& channel : pair.ours) channel->interrupt();
  });
  std::vector<std::byte> received(1);
  for (int i = 0; i < 2; ++i) {
    const auto read = read_bytes(*pair.ours[0], received);
    ASSERT_FALSE(read);
    EXPECT_EQ(read.error().message(),
              fmt::format("the connection to {} was interrupted", pair.ours[0]->peer()));
    const auto written = write_bytes(*pair.ours[1], data);
    ASSERT_FALSE(written);
    EXPECT_EQ(written.error().message(),
              fmt::format("the connection to {} was interrupted", pair.ours[1]->peer()));
  }
}

TEST_F(TlsChannelTest, IsInterruptedWhileItShakesHands) {
  TlsPairs pair(hosts_, 1);
  std::jthread interrupter([&] {
    std::this_thread::sleep_for(20ms);
    pair.theirs[0]->interrupt();
  });
  std::vector<std::byte> received(1);
  // Two threads at once: the second waits for the handshake of the first.
  std::jthread writer([&] { EXPECT_FALSE(write_bytes(*pair.theirs[0], pattern(1))); });
  const auto read = read_bytes(*pair.theirs[0], received);
  ASSERT_FALSE(read);
  EXPECT_THAT(read.error().message(), HasSubstr("was interrupted"));
}

TEST_F(TlsChannelTest, AHandshakeThatDripsIsGivenUpWithinTheTimeoutAsAWhole) {
  auto [ours, theirs] = socket_pair(300ms);
  auto channel = TlsChannel::create(std::move(theirs), hosts_.identity("there"),
                                    TlsSide::kDestination, {peer_id("here")})
                     .value();
  // A handshake record, byte by byte, each of them in time.
  std::jthread dripper([&ours = ours](const std::stop_token& stop) {
    std::vector<std::byte> record(5 + 100);
    record[0] = std::byte{22};
    record[1] = record[2] = std::byte{3};
    record[4] = std::byte{100};
    for (auto& byte : record) {
      const iovec part{&byte, 1};
      if (stop.stop_requested() || !ours->send_some(std::span(&part, 1))) return;
      std::this_thread::sleep_for(20ms);
    }
    ADD_FAILURE() << "nobody has given up";
  });
  std::vector<std::byte> received(1);
  const auto read = read_bytes(*channel, received);
  dripper.request_stop();
  ASSERT_FALSE(read);
  EXPECT_EQ(read.error().kind(), ErrorKind::kMigration);
}

}  // namespace
}  // namespace vmm::migration
