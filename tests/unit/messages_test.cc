#include "migration/messages.h"

#include <gtest/gtest.h>

#include "migration/peer_text.h"
#include "migration/preamble.h"
#include "migration_manifest_support.h"

namespace vmm::migration {
namespace {

template <typename T>
T filled() {
  T array{};
  array.fill(std::byte{0xa5});
  return array;
}

std::vector<Message> one_of_each() {
  return {ManifestMessage{full_manifest()},
          Accept{filled<Secret>(), 8},
          Refuse{ErrorKind::kHost, "CNTFRQ is 62500000 there, 50000000 here"},
          RoundEnd{1},
          RoundAck{0xffff'ffff},
          Rehearse{std::vector<std::byte>(300, std::byte{7})},
          Rehearsed{123},
          State{std::vector<std::byte>(200, std::byte{9})},
          Verify{},
          Digest{filled<std::array<std::byte, 32>>()},
          Prepared{1},
          Commit{31'536'000'000'000'000},
          Started{1, 2, 3},
          Discarded{"the disk root is held by another program"},
          Done{},
          Cancel{""},
          Heartbeat{},
          OutcomeMessage{Outcome::kStarted},
          AskTime{},
          TimeMessage{1}};
}

std::uint32_t number(const Message& message) {
  return static_cast<std::uint32_t>(type_of(message));
}

TEST(MessagesTest, EveryMessageComesOutAsItWentIn) {
  const auto messages = one_of_each();
  ASSERT_EQ(messages.size(), std::variant_size_v<Message>);
  for (std::size_t i = 0; i < messages.size(); ++i) {
    ASSERT_EQ(messages[i].index(), i);
    const auto payload = encode_payload(messages[i]).value();
    const auto type = number(messages[i]);
    EXPECT_LE(payload.size(), max_payload(type).value());
    EXPECT_EQ(decode_payload(type, payload).value(), messages[i]);
    const FrameHeader header{type, static_cast<std::uint32_t>(payload.size())};
    EXPECT_EQ(decode_frame_header(encode(header)).value(), header);
  }
}

// Types whose payload is an opaque blob of any length.
bool is_blob(const Message& message) {
  return std::holds_alternative<State>(message) || std::holds_alternative<Rehearse>(message);
}

TEST(MessagesTest, NoMessageDecodesCutShortOrWithMoreBehindIt) {
  for (const Message& message : one_of_each()) {
    if (is_blob(message)) continue;
    const auto type = number(message);
    auto payload = encode_payload(message).value();
    for (std::size_t length = 0; length < payload.size(); ++length) {
      // A copy of just that length, so that the sanitizer sees a read beyond it.
      const std::vector<std::byte> cut(payload.begin(),
                                       payload.begin() + static_cast<std::ptrdiff_t>(length));
      EXPECT_FALSE(decode_payload(type, cut)) << to_string(type_of(message)) << ", " << length;
    }
    payload.push_back(std::byte{0});
    EXPECT_FALSE(decode_payload(type, payload)) << to_string(type_of(message));
  }
}

TEST(MessagesTest, WhatDecodesWithAnyBitFlippedIsEncodedAsTheSameBytes) {
  for (const Message& message : one_of_each()) {
    auto payload = encode_payload(message).value();
    for (std::size_t bit = 0; bit < payload.size() * 8; ++bit) {
      const auto mask = std::byte{1} << static_cast<int>(bit % 8);
      payload[bit / 8] ^= mask;
      if (const auto decoded = decode_payload(number(message), payload)) {
        EXPECT_NE(decoded.value(), message);
        EXPECT_EQ(encode_payload(decoded.value()).value(), payload);
      }
      payload[bit / 8] ^= mask;
    }
  }
}

TEST(MessagesTest, LengthsAreCappedBeforeAnythingIsAllocated) {
  for (const Message& message : one_of_each()) {
    const auto most = static_cast<std::uint32_t>(max_payload(number(message)).value());
    EXPECT_TRUE(decode_frame_header(encode(FrameHeader{number(message), most})));
    EXPECT_FALSE(decode_frame_header(encode(FrameHeader{number(message), most + 1})));
    EXPECT_FALSE(decode_frame_header(encode(FrameHeader{number(message), 0xffff'ffff})));
  }
  const std::vector<std::byte> large(kMaxMachineState + 1);
  EXPECT_FALSE(encode_payload(State{large}));
  EXPECT_FALSE(decode_payload(static_cast<std::uint32_t>(MessageType::kState), large));
  const auto types = static_cast<std::uint32_t>(std::variant_size_v<Message>);
  for (const std::uint32_t type : {0U, types + 1, 0x8000'0001U, 0xffff'ffffU}) {
    EXPECT_FALSE(max_payload(type));
    EXPECT_FALSE(decode_frame_header(encode(FrameHeader{type, 0})));
    EXPECT_FALSE(decode_payload(type, {}));
  }
}

TEST(MessagesTest, TextsAreFitForTheOthersTerminal) {
  EXPECT_EQ(printable("a\x1b[2J\n\xc3\xa4~"), "a?[2J???~");
  EXPECT_EQ(printable(std::string(kMaxText, 'x')), std::string(kMaxText, 'x'));
  EXPECT_EQ(printable(std::string(kMaxText + 1, 'x')), std::string(kMaxText - 3, 'x') + "...");
  const auto payload = encode_payload(Cancel{"two\nlines"}).value();
  const auto type = static_cast<std::uint32_t>(MessageType::kCancel);
  EXPECT_EQ(decode_payload(type, payload).value(), Message(Cancel{"two?lines"}));
  auto raw = payload;
  raw.back() = std::byte{0x1b};
  EXPECT_FALSE(decode_payload(type, raw));
}

TEST(MessagesTest, GrantsAndRefusalsOfNoMeaningAreNotSent) {
  EXPECT_FALSE(encode_payload(Accept{{}, 0}));
  EXPECT_FALSE(encode_payload(Accept{{}, kMaxDataChannels + 1}));
  EXPECT_FALSE(encode_payload(Refuse{ErrorKind::kInDoubt, ""}));
}

TEST(MessagesTest, NoSessionLastsLongerThanAYear) {
  const auto with = [](std::uint64_t ns) {
    return std::vector<Message>{Commit{ns}, TimeMessage{ns}};
  };
  constexpr std::uint64_t kYearNs = 31'536'000'000'000'000;
  for (const Message& message : with(kYearNs)) {
    EXPECT_TRUE(decode_payload(number(message), encode_payload(message).value()));
  }
  for (const Message& message : with(kYearNs + 1)) {
    EXPECT_FALSE(decode_payload(number(message), encode_payload(message).value()));
  }
}

TEST(MessagesTest, NothingOfAHandOverTakesLongerThanADay) {
  constexpr std::uint64_t kDayNs = 86'400'000'000'000;
  const auto with = [](std::uint64_t ns) {
    return std::vector<Message>{Rehearsed{ns}, Prepared{ns}, Started{ns, 0, 0}, Started{0, ns, 0},
                                Started{0, 0, ns}};
  };
  for (const Message& message : with(kDayNs)) {
    EXPECT_TRUE(decode_payload(number(message), encode_payload(message).value()));
  }
  for (const std::uint64_t more : {kDayNs + 1, std::uint64_t{INT64_MAX}, UINT64_MAX}) {
    for (const Message& message : with(more)) {
      EXPECT_FALSE(decode_payload(number(message), encode_payload(message).value()))
          << to_string(type_of(message)) << ' ' << more;
    }
  }
}

TEST(PreambleTest, ComesOutAsItWentInAndNoBitIsIgnored) {
  const auto id = full_manifest().id;
  const Preamble preambles[] = {{ConnectionKind::kControl, id, {}, 0},
                                {ConnectionKind::kData, id, filled<Secret>(), 15},
                                {ConnectionKind::kQuery, id, {}, 0}};
  for (const Preamble& preamble : preambles) {
    auto bytes = encode(preamble);
    EXPECT_EQ(decode_preamble(bytes).value(), preamble);
    for (std::size_t bit = 0; bit < bytes.size() * 8; ++bit) {
      const auto mask = std::byte{1} << static_cast<int>(bit % 8);
      bytes[bit / 8] ^= mask;
      if (const auto decoded = decode_preamble(bytes)) {
        EXPECT_NE(decoded.value(), preamble);
        EXPECT_EQ(encode(decoded.value()), bytes);
      }
      bytes[bit / 8] ^= mask;
    }
  }
}

TEST(PreambleTest, AnotherVersionIsNamedBesideOurs) {
  auto bytes = encode(Preamble{});
  bytes[8] = std::byte{9};
  const auto message = decode_preamble(bytes).error().message();
  EXPECT_NE(message.find("version 9"), std::string::npos) << message;
  EXPECT_NE(message.find("version 1"), std::string::npos) << message;
}

TEST(PreambleTest, AnswersComeOutAsTheyWentInAndAreCapped) {
  for (const PreambleAnswer& answer :
       {PreambleAnswer{0, ""}, PreambleAnswer{1, "a migration is under way"}}) {
    const auto bytes = encode(answer);
    const std::span all(bytes);
    const auto head = decode_answer_head(all.first<kPreambleAnswerHeadBytes>()).value();
    const auto text = all.subspan(kPreambleAnswerHeadBytes);
    ASSERT_EQ(text.size(), head.text_bytes);
    EXPECT_EQ(decode_answer(head, text).value(), answer);
    if (!text.empty()) {
      EXPECT_FALSE(decode_answer(head, text.first(1)));
    }
  }
  auto long_text = encode(PreambleAnswer{1, ""});
  long_text[13] = std::byte{0x01};
  long_text[14] = std::byte{0x04};
  EXPECT_FALSE(decode_answer_head(std::span(long_text).first<kPreambleAnswerHeadBytes>()));
}

TEST(MigrationIdTest, IsThirtyTwoDigitsAndNeverTheSameTwice) {
  const auto id = MigrationId::parse("00112233445566778899aabbccddeeff").value();
  EXPECT_EQ(id.to_string(), "00112233445566778899aabbccddeeff");
  EXPECT_EQ(id.bytes()[15], std::byte{0xff});
  for (const char* bad :
       {"", "0", "00112233445566778899aabbccddeef", "0x112233445566778899aabbccddeeff",
        "00112233445566778899AABBCCDDEEFF", "00112233445566778899aabbccddeeff0"}) {
    EXPECT_FALSE(MigrationId::parse(bad)) << bad;
  }
  EXPECT_NE(MigrationId::random().value(), MigrationId::random().value());
  EXPECT_NE(random_secret().value(), random_secret().value());
  auto other = filled<Secret>();
  EXPECT_TRUE(same_secret(other, filled<Secret>()));
  other[15] ^= std::byte{1};
  EXPECT_FALSE(same_secret(other, filled<Secret>()));
}

}  // namespace
}  // namespace vmm::migration
