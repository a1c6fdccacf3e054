// Guest memory from one GuestMemory to another: RamSender and RamReceiver over loopback, and the
// sender alone where faults must be placed exactly.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <random>
#include <thread>

#include "channel_fakes.h"
#include "fake_dirty_log.h"
#include "memory/pagemap.h"
#include "migration/ram_receiver.h"
#include "migration/ram_sender.h"

namespace vmm::migration {
namespace {

using namespace std::chrono_literals;
using ::testing::HasSubstr;

constexpr std::uint64_t kBase = 0x4000'0000;
constexpr std::uint64_t kPages = 6 * kChunkPages + 70;

// As a vCPU does it, which ThreadSanitizer does not see either.
__attribute__((no_sanitize("thread"))) void store(std::byte* at, std::uint64_t value) {
  *reinterpret_cast<volatile std::uint64_t*>(at) = value;
}

class RamSenderTest : public ::testing::Test {
 protected:
  RamSenderTest() {
    // Small pages, so that each is touched by itself.
    ::madvise(bytes.data(), bytes.size(), MADV_NOHUGEPAGE);
  }
  // A vCPU writes to a page.
  void write(std::uint64_t page, std::uint64_t value) {
    store(bytes.data() + page * kPageSize + 8 * (page % 512), value);
    log.write(page);
  }
  void start() { ASSERT_TRUE(tracker.start(DirtyLogMode::kWriteProtect)); }

  GuestMemory memory = GuestMemory::create(kBase, kPages* kPageSize, Backing::kAnonymous).value();
  std::span<std::byte> bytes = memory.slice(kBase, memory.size()).value();
  FakeDirtyLog log{kPages};
  DirtyTracker tracker{log, memory};
  Pagemap pagemap = Pagemap::open().value();
};

// The sender over one channel that keeps what it is given.
class RamSenderRecordsTest : public RamSenderTest {
 protected:
  RamSenderRecordsTest() {
    auto owned = std::make_unique<ScriptedChannel>();
    channel = owned.get();
    Channels channels;
    channels.push_back(std::move(owned));
    ram_sender.emplace(memory, tracker, pagemap, std::move(channels));
  }
  // "pages 3+2", "zero 7+1" … of what was written since the last call.
  [[nodiscard]] std::vector<std::string> records() {
    std::vector<std::string> found;
    const auto written = channel->written();
    while (seen < written.size()) {
      RecordHeader header{};
      std::memcpy(header.data(), written.data() + seen, sizeof header);
      seen += sizeof header;
      const auto record = decode_record(header, kPages).value();
      if (record.type == RecordType::kRoundEnd) {
        found.push_back(fmt::format("end {}", record.round));
        continue;
      }
      const auto [first, count] = record.pages;
      found.push_back(fmt::format("{} {}+{}", to_string(record.type), first, count));
      if (record.payload() == 0) continue;
      EXPECT_EQ(
          std::memcmp(written.data() + seen, bytes.data() + first * kPageSize, record.payload()),
          0);
      seen += record.payload();
    }
    return found;
  }

  ScriptedChannel* channel = nullptr;
  std::size_t seen = 0;
  std::optional<RamSender> ram_sender;
};

using Records = std::vector<std::string>;

TEST_F(RamSenderRecordsTest, ALimitCutsWhatIsSentAnywhereAndLeavesNothingOut) {
  for (std::uint64_t page = 0; page < 20; ++page) write(page, page + 1);
  write(30, 1);
  start();
  ram_sender->set_rate(1'000'000);  // pieces of 10 kB
  const auto sent = ram_sender->send_round(1, true).value();
  EXPECT_EQ(records(), (Records{"pages 0+20", "pages 30+1", "end 1"}));
  EXPECT_EQ(sent.bytes, 21 * kPageSize + 3 * sizeof(RecordHeader));
  // All but the last, and the end of the round by itself.
  EXPECT_EQ(channel->writes(), 10);
}

TEST_F(RamSenderRecordsTest, LeavesOutUntouchedAndZeroPagesInTheFirstRoundAlone) {
  write(2, 1);
  write(3, 1);
  write(4, 0);
  write(5, 1);
  write(kPages - 1, 1);
  start();
  auto first = ram_sender->send_round(1, true).value();
  EXPECT_EQ(records(),
            (Records{"pages 2+2", "pages 5+1", fmt::format("pages {}+1", kPages - 1), "end 1"}));
  EXPECT_EQ(first.pages, 4u);
  EXPECT_EQ(first.zero_pages, 1u);
  EXPECT_EQ(first.hole_pages, 0u);
  EXPECT_EQ(first.skipped_pages, kPages - 5);
  EXPECT_EQ(first.bytes, 4 * kPageSize + 4 * sizeof(RecordHeader));
  EXPECT_EQ(ram_sender->progress().bytes, first.bytes);

  write(4, 5);
  write(5, 0);
  ASSERT_TRUE(memory.discard(kBase + 2 * kPageSize, 2 * kPageSize));
  ASSERT_TRUE(tracker.harvest());
  const auto second = ram_sender->send_round(2, false).value();
  EXPECT_EQ(records(), (Records{"hole 2+2", "pages 4+1", "zero 5+1", "end 2"}));
  EXPECT_EQ(second.pages, 1u);
  EXPECT_EQ(second.zero_pages, 1u);
  EXPECT_EQ(second.hole_pages, 2u);
  EXPECT_EQ(second.skipped_pages, 0u);
}

TEST_F(RamSenderRecordsTest, ReadsNoPageThatHasNoMemory) {
  start();
  ASSERT_TRUE(ram_sender->send_round(1, true));
  ASSERT_EQ(tracker.harvest().value(), 0u);
  for (std::uint64_t page = 0; page < kPages; ++page) log.write(page);
  ASSERT_TRUE(tracker.harvest());
  EXPECT_EQ(ram_sender->send_round(2, false).value().hole_pages, kPages);
  std::vector<std::uint64_t> backed(dirty_words(kPages));
  ASSERT_TRUE(pagemap.backed(bytes, backed));
  EXPECT_EQ(backed, std::vector<std::uint64_t>(dirty_words(kPages)));
}

TEST_F(RamSenderRecordsTest, CarriesTheWorstPatternThereIs) {
  for (std::uint64_t page = 0; page < kPages; ++page) write(page, page % 2);
  start();
  ASSERT_TRUE(ram_sender->send_round(1, true));
  (void)records();
  for (std::uint64_t page = 0; page < kPages; ++page) log.write(page);
  ASSERT_TRUE(tracker.harvest());
  const auto counters = ram_sender->send_round(2, false).value();
  EXPECT_EQ(records().size(), kPages + 1);
  EXPECT_EQ(counters.pages, kPages / 2);
  EXPECT_EQ(counters.zero_pages, kPages / 2);
}

TEST_F(RamSenderRecordsTest, PutsBackWhatCouldNotBeSent) {
  for (std::uint64_t page = 0; page < kPages; ++page) write(page, 1);
  start();
  channel->fail_after(3 * kChunkPages * kPageSize);
  const auto sent = ram_sender->send_round(1, true);
  ASSERT_FALSE(sent);
  EXPECT_EQ(sent.error().message(), "peer is full");
  EXPECT_EQ(ram_sender->send_round(2, false).error().message(), "peer is full");
  // Two chunks and their headers went out whole.
  EXPECT_EQ(tracker.harvest().value(), kPages - 2 * kChunkPages);
}

TEST_F(RamSenderRecordsTest, SendsWithoutALogUntilSoMuchHasGoneOut) {
  write(3, 1);
  log.clears.clear();
  const auto counters = ram_sender->send_unlogged(1, 100'000).value();
  EXPECT_GE(counters.bytes, 100'000u);
  EXPECT_LT(counters.bytes, 2'000'000u);
  EXPECT_EQ(records().back(), "end 1");
  EXPECT_TRUE(log.clears.empty());
  EXPECT_EQ(log.gets, 0);
}

TEST_F(RamSenderRecordsTest, DoesNotSendNothingForEver) {
  EXPECT_EQ(ram_sender->send_unlogged(1, 1).error().message(), "guest memory has nothing to send");
}

// Source and destination over loopback.
class RamTransferTest : public RamSenderTest, public ::testing::WithParamInterface<int> {
 protected:
  void connect(int channels) {
    TcpPairs pairs(channels);
    ram_sender.emplace(memory, tracker, pagemap, std::move(pairs.ours));
    receiver.emplace(target, std::move(pairs.theirs),
                     RamReceiver::Events{.round_complete = [this](auto r) { complete(r); },
                                         .failed = [this](const Error&) { ++failures; }});
  }
  void complete(std::uint32_t round) {
    rounds = round;
    rounds.notify_all();
  }
  void wait_for(std::uint32_t round) {
    for (auto now = rounds.load(); now != round; now = rounds.load()) rounds.wait(now);
  }
  void expect_same() {
    ASSERT_TRUE(receiver->finish());
    EXPECT_EQ(std::memcmp(bytes.data(), target_bytes.data(), bytes.size()), 0);
  }

  GuestMemory target = GuestMemory::create(kBase, kPages* kPageSize, Backing::kAnonymous).value();
  std::span<std::byte> target_bytes = target.slice(kBase, target.size()).value();
  std::atomic<std::uint32_t> rounds = 0;
  std::atomic<int> failures = 0;
  std::optional<RamReceiver> receiver;
  std::optional<RamSender> ram_sender;
};

TEST_P(RamTransferTest, ArrivesWholeWhileTheGuestWritesAllTheTime) {
  connect(GetParam());
  std::mt19937 random(static_cast<unsigned>(GetParam()));
  for (std::uint64_t page = 0; page < kPages; ++page) {
    if (random() % 3 != 0) write(page, random() % 4);
  }
  start();
  std::atomic<bool> running = true;
  const auto guest = [&](unsigned seed) {
    std::mt19937 mine(seed);
    while (running) {
      const std::uint64_t page = mine() % kPages;
      switch (mine() % 8) {
        case 0:
          ASSERT_TRUE(memory.discard(kBase + page * kPageSize, kPageSize));
          break;
        case 1:  // a device
          store(bytes.data() + page * kPageSize, mine());
          memory.mark_dirty(kBase + page * kPageSize, kPageSize);
          break;
        default:
          write(page, mine() % 3);
      }
      std::this_thread::yield();
    }
  };
  {
    std::vector<std::jthread> guests;
    for (unsigned seed = 1; seed <= 2; ++seed) guests.emplace_back(guest, seed);
    for (std::uint32_t round = 1; round <= 5; ++round) {
      const auto sent = ram_sender->send_round(round, round == 1);
      ASSERT_TRUE(sent) << sent.error().message();
      wait_for(round);
      ASSERT_TRUE(tracker.harvest());
    }
    running = false;
  }
  ASSERT_TRUE(tracker.harvest());
  ASSERT_TRUE(ram_sender->send_round(6, false));
  wait_for(6);
  EXPECT_EQ(tracker.harvest().value(), 0u);
  expect_same();
  EXPECT_EQ(failures, 0);
}

TEST_P(RamTransferTest, IsCancelledInTheMiddle) {
  connect(GetParam());
  for (std::uint64_t page = 0; page < kPages; ++page) write(page, page + 1);
  start();
  // So slow that it would take minutes.
  ram_sender->set_rate(50'000);
  RoundCounters midway;
  std::jthread canceller([&] {
    while (ram_sender->progress().pages == 0) std::this_thread::yield();
    midway = ram_sender->progress();
    ram_sender->interrupt();
  });
  const auto sent = ram_sender->send_round(1, true);
  canceller.join();
  EXPECT_GT(midway.wall, 0ns) << "how fast it is going can be told";
  ASSERT_FALSE(sent);
  EXPECT_EQ(sent.error().message(), "sending guest memory was interrupted");
  EXPECT_GT(tracker.harvest().value(), 0u) << "pages that were not sent are put back";
  while (failures == 0) std::this_thread::yield();
  EXPECT_FALSE(receiver->finish());
  EXPECT_EQ(failures, 1);
}

TEST_P(RamTransferTest, FailsWhenTheReceiverGoes) {
  connect(GetParam());
  for (std::uint64_t page = 0; page < kPages; ++page) write(page, page + 1);
  start();
  ram_sender->set_rate(2'000'000);
  std::jthread killer([&] {
    while (ram_sender->progress().pages == 0) std::this_thread::yield();
    receiver->interrupt();
  });
  const auto sent = ram_sender->send_round(1, true);
  ASSERT_FALSE(sent);
  EXPECT_THAT(sent.error().message(), HasSubstr("the connection to 127.0.0.1:"));
  EXPECT_EQ(sent.error().kind(), ErrorKind::kMigration);
}

INSTANTIATE_TEST_SUITE_P(Channels, RamTransferTest, ::testing::Values(1, 4, 16));

TEST_F(RamTransferTest, FailsWhenThePeerStopsReading) {
  TcpPairs pairs(2);
  for (const auto& channel : pairs.ours) channel->set_timeout(30ms);
  // Far more than the host's network stack takes.
  constexpr std::uint64_t kLarge = 128 << 20;
  auto large = GuestMemory::create(kBase, kLarge, Backing::kAnonymous).value();
  std::ranges::fill(large.slice(kBase, kLarge).value(), std::byte{1});
  FakeDirtyLog large_log{kLarge / kPageSize};
  DirtyTracker large_tracker(large_log, large);
  ASSERT_TRUE(large_tracker.start(DirtyLogMode::kWriteProtect));
  RamSender stuck(large, large_tracker, pagemap, std::move(pairs.ours));
  const auto sent = stuck.send_round(1, true);
  ASSERT_FALSE(sent);
  EXPECT_THAT(sent.error().message(), HasSubstr("127.0.0.1:"));
}

TEST_F(RamTransferTest, SendsNothingMoreAfterAnInterrupt) {
  connect(2);
  start();
  ram_sender->interrupt();
  EXPECT_FALSE(ram_sender->send_round(1, true));
  EXPECT_EQ(tracker.remaining(), kPages) << "nothing was taken";
}

TEST_F(RamTransferTest, SurvivesAReceiverThatIsMadeAndGoes) {
  connect(3);
  receiver.reset();
  EXPECT_EQ(failures, 0) << "who destroys it knows";
}

}  // namespace
}  // namespace vmm::migration
