#include "migration/ram_receiver.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <future>

#include "base/bytes.h"
#include "channel_fakes.h"
#include "madvise_fault.h"
#include "memory/pagemap.h"

namespace vmm::migration {
namespace {

constexpr std::uint64_t kBase = 0x4000'0000;
constexpr std::uint64_t kPages = 1100;  // not a multiple of anything

struct Stream {
  Stream& raw(std::uint32_t type, std::uint32_t reserved, std::uint64_t first,
              std::uint64_t pages) {
    out.put(type);
    out.put(reserved);
    out.put(first);
    out.put(pages);
    return *this;
  }
  Stream& record(RecordType type, std::uint64_t first, std::uint64_t pages) {
    return raw(static_cast<std::uint32_t>(type), 0, first, pages);
  }
  Stream& pages(std::uint64_t first, std::uint64_t count, unsigned value) {
    record(RecordType::kPages, first, count);
    out.put_bytes(std::vector<std::byte>(count * kPageSize, static_cast<std::byte>(value)));
    return *this;
  }
  Stream& end(std::uint64_t round) { return record(RecordType::kRoundEnd, round, 0); }
  [[nodiscard]] std::vector<std::byte> bytes() const {
    return {out.bytes().begin(), out.bytes().end()};
  }
  ByteWriter out;
};

class RamReceiverTest : public ::testing::Test {
 protected:
  RamReceiverTest() {
    // Small pages, so that each is touched by itself.
    const auto bytes = memory.regions()[0].bytes;
    ::madvise(bytes.data(), bytes.size(), MADV_NOHUGEPAGE);
  }
  // Receives the streams, a channel each; the peer closes at their end, or is silent.
  void receive(const std::vector<std::vector<std::byte>>& streams, bool closes = true) {
    Channels channels;
    for (const auto& stream : streams) {
      auto channel = std::make_unique<ScriptedChannel>(stream);
      if (closes) channel->close_at_end();
      channels.push_back(std::move(channel));
    }
    receiver.emplace(memory, std::move(channels),
                     RamReceiver::Events{.round_complete =
                                             [this](std::uint32_t round) {
                                               rounds.push_back(round);
                                               if (round == until) complete.set_value();
                                             },
                                         .failed =
                                             [this](const Error& error) {
                                               errors.push_back(error.message());
                                               failed.set_value();
                                             }});
  }
  [[nodiscard]] std::string error_of(const std::vector<std::vector<std::byte>>& streams) {
    receive(streams);
    failed.get_future().wait();
    const auto finished = receiver->finish();
    EXPECT_FALSE(finished);
    EXPECT_EQ(errors.size(), 1u) << "reported once";
    EXPECT_EQ(finished.error().message(), errors.at(0));
    return errors.at(0);
  }
  [[nodiscard]] std::string error_of(const Stream& stream) { return error_of({{stream.bytes()}}); }

  [[nodiscard]] unsigned at(std::uint64_t page) {
    return std::to_integer<unsigned>(memory.slice(kBase + page * kPageSize, 1).value()[0]);
  }
  [[nodiscard]] std::uint64_t backed_pages() {
    std::vector<std::uint64_t> bits(dirty_words(kPages));
    EXPECT_TRUE(Pagemap::open().value().backed(memory.regions()[0].bytes, bits));
    std::uint64_t count = 0;
    for (const auto word : bits) count += static_cast<std::uint64_t>(std::popcount(word));
    return count;
  }

  GuestMemory memory = GuestMemory::create(kBase, kPages* kPageSize, Backing::kAnonymous).value();
  std::vector<std::uint32_t> rounds;
  std::vector<std::string> errors;
  std::uint32_t until = 0;
  std::promise<void> complete;
  std::promise<void> failed;
  std::optional<RamReceiver> receiver;
};

TEST_F(RamReceiverTest, PutsPagesWhereTheyBelongAndKeepsBooks) {
  until = 2;
  receive(
      {Stream().pages(0, 256, 1).pages(kPages - 3, 3, 2).end(1).pages(255, 1, 3).end(2).bytes()},
      false);
  complete.get_future().wait();
  EXPECT_TRUE(receiver->finish());
  EXPECT_EQ(rounds, (std::vector<std::uint32_t>{1, 2}));
  EXPECT_EQ(at(0), 1u);
  EXPECT_EQ(at(254), 1u);
  EXPECT_EQ(at(255), 3u);
  EXPECT_EQ(at(256), 0u);
  EXPECT_EQ(at(kPages - 1), 2u);
  EXPECT_EQ(receiver->received().count(), 259u);
  EXPECT_EQ(receiver->bytes(), 260 * kPageSize);
  EXPECT_TRUE(errors.empty());
}

TEST_F(RamReceiverTest, MakesPagesZeroAndGivesHolesBack) {
  until = 1;
  Stream stream;
  for (std::uint64_t page = 0; page < 1024; page += 256) stream.pages(page, 256, 7);
  stream.record(RecordType::kZero, 3, 2).record(RecordType::kHole, 100, 1);
  stream.record(RecordType::kZero, 200, 600).end(1);
  receive({stream.bytes()}, false);
  complete.get_future().wait();
  EXPECT_TRUE(receiver->finish());
  for (std::uint64_t page = 0; page < 1024; ++page) {
    const bool zero = page == 3 || page == 4 || page == 100 || (page >= 200 && page < 800);
    EXPECT_EQ(at(page), zero ? 0u : 7u) << page;
  }
}

TEST_F(RamReceiverTest, TouchesNoPageThatNeverCame) {
  until = 1;
  receive({Stream()
               .record(RecordType::kZero, 0, kPages)
               .record(RecordType::kHole, 5, 900)
               .end(1)
               .bytes()},
          false);
  complete.get_future().wait();
  EXPECT_TRUE(receiver->finish());
  EXPECT_EQ(backed_pages(), 0u);
  EXPECT_EQ(memory.device_dirty().count(), 0u);
}

TEST_F(RamReceiverTest, ReallyGivesHolesBack) {
  until = 2;
  receive({Stream().pages(64, 200, 1).end(1).record(RecordType::kHole, 0, kPages).end(2).bytes()},
          false);
  complete.get_future().wait();
  EXPECT_TRUE(receiver->finish());
  EXPECT_EQ(backed_pages(), 0u);
  EXPECT_EQ(at(64), 0u);
}

TEST_F(RamReceiverTest, FailsWhereTheHostKeepsAHole) {
  const MadviseFault fault(MADV_DONTNEED, ENOMEM);
  EXPECT_EQ(error_of(Stream().pages(64, 200, 1).record(RecordType::kHole, 0, kPages).end(1)),
            "cannot give 819200 bytes of guest memory back: Cannot allocate memory");
  EXPECT_EQ(at(64), 1u);
  EXPECT_TRUE(rounds.empty());
}

TEST_F(RamReceiverTest, RefusesHostileRecords) {
  constexpr auto kMax = std::numeric_limits<std::uint64_t>::max();
  const auto pages = static_cast<std::uint32_t>(RecordType::kPages);
  struct Case {
    const char* why;
    Stream stream;
  };
  const Case cases[] = {
      {"no such type: 0", Stream().raw(0, 0, 0, 1)},
      {"no such type: 4294967295", Stream().raw(0xffff'ffff, 0, 0, 1)},
      {"reserved field is 0x1", Stream().raw(pages, 1, 0, 1)},
      {"a pages record of 257 pages from page 0, allowed are 1 to 256 within the guest's 1100",
       Stream().record(RecordType::kPages, 0, 257)},
      {"a pages record of 1 pages from page 1100, allowed are 1 to 256 within the guest's 1100",
       Stream().record(RecordType::kPages, kPages, 1)},
      {"a zero record of 18446744073709551615 pages from page 1, allowed are 1 to 1100 within the "
       "guest's 1100",
       Stream().record(RecordType::kZero, 1, kMax)},
      {"a hole record of 0 pages from page 0, allowed are 1 to 1100 within the guest's 1100",
       Stream().record(RecordType::kHole, 0, 0)},
      {"end of round 1 with 1 pages", Stream().record(RecordType::kRoundEnd, 1, 1)},
      {"end of round 0 with 0 pages", Stream().end(0)},
  };
  for (const auto& [why, stream] : cases) {
    errors.clear();
    failed = {};
    EXPECT_EQ(error_of(stream), fmt::format("peer sent a record that is wrong: {}", why));
    EXPECT_EQ(backed_pages(), 0u) << why;
  }
}

TEST_F(RamReceiverTest, RefusesRoundsOutOfOrder) {
  EXPECT_EQ(error_of(Stream().end(2)), "peer ended round 2 while round 1 is under way");
  errors.clear();
  failed = {};
  EXPECT_EQ(error_of(Stream().end(1).end(1)), "peer ended round 1 while round 2 is under way");
}

TEST_F(RamReceiverTest, FailsWhereverThePeerCloses) {
  const auto whole = Stream().pages(0, 2, 1).record(RecordType::kZero, 9, 1).end(1).bytes();
  for (std::size_t length = 0; length <= whole.size(); ++length) {
    // Every byte of headers, and a few within the contents.
    if (length > 100 && length < 2 * kPageSize && length % 1000 != 0) continue;
    errors.clear();
    failed = {};
    rounds.clear();
    EXPECT_EQ(error_of({{whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(length)}}),
              "peer closed");
    EXPECT_EQ(rounds.size(), length == whole.size() ? 1u : 0u);
  }
}

TEST_F(RamReceiverTest, CompletesARoundWhenEveryChannelHasEndedIt) {
  until = 2;
  // The second channel has its page of round 1 behind many others; the first overwrites it in 2.
  Stream second;
  for (int i = 0; i < 200; ++i) second.pages(512, 64, 8);
  second.pages(10, 1, 1).end(1).end(2);
  receive({Stream().end(1).pages(10, 1, 2).end(2).bytes(), second.bytes()}, false);
  complete.get_future().wait();
  EXPECT_TRUE(receiver->finish());
  EXPECT_EQ(at(10), 2u);
  EXPECT_EQ(rounds, (std::vector<std::uint32_t>{1, 2}));
}

TEST_F(RamReceiverTest, AnErrorOfOneChannelEndsTheOthersWhereverTheyAre) {
  // One waits for the others at the end of the round, one for data.
  auto waiting = std::make_unique<ScriptedChannel>(Stream().end(1).bytes());
  auto silent = std::make_unique<ScriptedChannel>();
  auto hostile = std::make_unique<ScriptedChannel>(Stream().raw(0, 0, 0, 0).bytes());
  Channels channels;
  channels.push_back(std::move(waiting));
  channels.push_back(std::move(silent));
  channels.push_back(std::move(hostile));
  std::promise<std::string> error;
  RamReceiver mixed(memory, std::move(channels),
                    {.round_complete = [](std::uint32_t /*round*/) { FAIL(); },
                     .failed = [&](const Error& why) { error.set_value(why.message()); }});
  EXPECT_THAT(error.get_future().get(), ::testing::HasSubstr("no such type"));
  EXPECT_FALSE(mixed.finish());
}

TEST_F(RamReceiverTest, IsInterruptedOnce) {
  receive({Stream().end(1).bytes(), {}}, false);
  receiver->interrupt();
  receiver->interrupt();
  const auto finished = receiver->finish();
  ASSERT_FALSE(finished);
  EXPECT_EQ(finished.error().message(), "receiving guest memory was interrupted");
  EXPECT_EQ(errors.size(), 1u);
}

}  // namespace
}  // namespace vmm::migration
