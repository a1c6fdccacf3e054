// What happens around requests: errors of the host, broken drivers, reset, pause, saved state.
#include <gmock/gmock.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>

#include <cerrno>
#include <thread>

#include "blk_rig.h"

namespace vmm::virtio {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class BlkStateTest : public ::testing::Test {
 protected:
  BlkStateTest() : fake(rig.attach_fake()) {}
  ~BlkStateTest() override { rig.transport.reset(); }

  BlkRig rig;
  FakeEngine& fake;
};

// --- Identity ---

TEST_F(BlkStateTest, ConfigurationDescribesTheDisk) {
  EXPECT_EQ(rig.read(VIRTIO_MMIO_DEVICE_ID), std::uint32_t{VIRTIO_ID_BLOCK});
  const auto config = [&](std::size_t offset, std::size_t size) {
    return mmio_read(*rig.transport, VIRTIO_MMIO_CONFIG + offset, size);
  };
  EXPECT_EQ(config(offsetof(virtio_blk_config, capacity), 8), kImageSize / kSectorSize);
  EXPECT_EQ(config(offsetof(virtio_blk_config, capacity), 4), kImageSize / kSectorSize);
  EXPECT_EQ(config(offsetof(virtio_blk_config, blk_size), 4), kSectorSize);
  EXPECT_EQ(config(offsetof(virtio_blk_config, seg_max), 4), Blk::kQueueSize - 2U);
  EXPECT_EQ(config(offsetof(virtio_blk_config, physical_block_exp), 1), 3U);
  EXPECT_EQ(config(offsetof(virtio_blk_config, max_discard_seg), 4), 1U);
  // The end, across it, beyond it, and far beyond.
  EXPECT_EQ(config(sizeof(virtio_blk_config) - 4, 8), 0U);
  EXPECT_EQ(config(sizeof(virtio_blk_config), 4), 0U);
  EXPECT_EQ(config(0x1000, 8), 0U);
  rig.write(VIRTIO_MMIO_CONFIG, 7);
  EXPECT_EQ(config(0, 8), kImageSize / kSectorSize);
}

TEST_F(BlkStateTest, SerialNumberHasItsLimit) {
  const auto too_long = Blk::create({.name = "disk.a", .serial = std::string(21, 's')}, *rig.image,
                                    std::make_unique<FakeEngine>(), rig.memory, rig.loop);
  ASSERT_FALSE(too_long);
  EXPECT_EQ(too_long.error().kind(), ErrorKind::kUsage);
  EXPECT_THAT(too_long.error().message(), HasSubstr("more than 20 bytes"));
}

// --- Errors of the host ---

TEST_F(BlkStateTest, HostErrorsReachTheGuestAndAreCounted) {
  rig.start();
  int error = EIO;
  fake.on_call = [&](const IoCall&) { return -error; };
  EXPECT_EQ(rig.run(rig.read_request(0, 0, 512)), VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(rig.answer->len, 0U);
  EXPECT_EQ(rig.run(rig.flush_request(0)), VIRTIO_BLK_S_IOERR);
  error = ENOSPC;
  EXPECT_EQ(rig.run(rig.write_request(0, 0, sector_text('x'))), VIRTIO_BLK_S_IOERR);
  error = EFBIG;
  EXPECT_EQ(rig.run(rig.range_request(0, VIRTIO_BLK_T_WRITE_ZEROES, 0, 8)), VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(rig.counter("errors"), 4U);
  EXPECT_EQ(rig.counter("errors_eio"), 2U);
  EXPECT_EQ(rig.counter("errors_enospc"), 1U);
  EXPECT_EQ(rig.counter("bytes_read") + rig.counter("bytes_written"), 0U);
  // And the disk goes on.
  fake.on_call = nullptr;
  EXPECT_EQ(rig.run(rig.write_request(0, 0, sector_text('x'))), VIRTIO_BLK_S_OK);
  EXPECT_FALSE(rig.needs_reset());
}

TEST_F(BlkStateTest, DataThatCameBeforeAnErrorIsMarkedDirty) {
  rig.start();
  int calls = 0;
  fake.on_call = [&](const IoCall& call) {
    if (++calls == 2) return -EIO;
    std::memcpy(call.buffers[0].iov_base, "half", 4);
    return 4;
  };
  EXPECT_EQ(rig.run(rig.read_request(0, 0, 8192)), VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(rig.peek_text(data_at(0), 4), "half");
  EXPECT_TRUE(rig.is_dirty(data_at(0)));
  EXPECT_TRUE(rig.is_dirty(status_at(0)));
}

// --- Batches ---

TEST_F(BlkStateTest, BatchIsOneSubmissionAndOneInterrupt) {
  rig.start();
  for (unsigned slot = 0; slot < 5; ++slot) {
    rig.add(0, rig.read_request(slot, slot, 512));
  }
  const int interrupts = rig.edge.count;
  rig.kick(0);
  ASSERT_TRUE(rig.loop.settle());
  EXPECT_EQ(fake.submits, 1);
  EXPECT_EQ(rig.edge.count, interrupts + 1);
  for (unsigned slot = 0; slot < 5; ++slot) EXPECT_EQ(rig.status_of(slot), VIRTIO_BLK_S_OK);
}

TEST_F(BlkStateTest, AnswersComeInAnyOrder) {
  rig.start();
  fake.hold = true;
  std::vector<std::uint16_t> heads;
  for (unsigned slot = 0; slot < 3; ++slot) {
    heads.push_back(rig.submit(0, rig.read_request(slot, slot, 512)));
  }
  EXPECT_FALSE(rig.take_used(0));
  for (const std::size_t index : {2U, 0U}) {
    fake.end(index);
    rig.loop.settle();
    EXPECT_EQ(rig.take_used(0)->id, heads[index]);
  }
  EXPECT_EQ(rig.status_of(1), kPending);
  fake.end();
  rig.loop.settle();
  EXPECT_EQ(rig.take_used(0)->id, heads[1]);
}

TEST_F(BlkStateTest, ADriverThatOffersMoreThanTheQueueHoldsIsStopped) {
  rig.start();
  fake.hold = true;
  const auto head = rig.add(0, rig.read_request(0, 0, 512), true);
  for (unsigned i = 0; i < VirtioRig::kQueueSize; ++i) {
    rig.kick(0);
    ASSERT_TRUE(rig.loop.settle());
    rig.offer(0, head);
  }
  rig.kick(0);
  ASSERT_TRUE(rig.loop.settle());
  EXPECT_EQ(fake.started.size(), VirtioRig::kQueueSize);
  rig.offer(0, head);
  fake.end();
  rig.kick(0);
  ASSERT_TRUE(rig.loop.settle());
  EXPECT_TRUE(rig.needs_reset());
}

// --- Flush ---

TEST_F(BlkStateTest, FlushStartsAfterTheWritesThatCameBack) {
  rig.start();
  fake.hold = true;
  rig.submit(0, rig.write_request(0, 0, sector_text('f')));
  fake.end();
  rig.loop.settle();
  ASSERT_TRUE(rig.take_used(0));
  rig.submit(0, rig.flush_request(1));
  ASSERT_EQ(fake.started.size(), 1U);
  EXPECT_EQ(fake.started[0]->kind, IoCall::Kind::kDataSync);
  EXPECT_FALSE(rig.take_used(0)) << "not before the image is durable";
  fake.end();
  rig.loop.settle();
  EXPECT_TRUE(rig.take_used(0));
}

TEST_F(BlkStateTest, WithoutFlushEachWriteIsDurable) {
  rig.start(std::uint64_t{1} << VIRTIO_BLK_F_WRITE_ZEROES);
  std::vector<std::pair<IoCall::Kind, int>> calls;
  fake.on_call = [&](const IoCall& call) {
    calls.emplace_back(call.kind, call.flags);
    return FakeEngine::make_call(call);
  };
  EXPECT_EQ(rig.run(rig.write_request(0, 0, sector_text('d'))), VIRTIO_BLK_S_OK);
  EXPECT_THAT(calls, ElementsAre(std::pair{IoCall::Kind::kWrite, RWF_DSYNC}));
  calls.clear();
  EXPECT_EQ(rig.run(rig.range_request(0, VIRTIO_BLK_T_WRITE_ZEROES, 0, 8)), VIRTIO_BLK_S_OK);
  ASSERT_FALSE(calls.empty());
  EXPECT_EQ(calls.back().first, IoCall::Kind::kDataSync);
  // Discards that were not agreed on are not there.
  EXPECT_EQ(rig.run(rig.range_request(0, VIRTIO_BLK_T_DISCARD, 0, 8)), VIRTIO_BLK_S_UNSUPP);
}

TEST_F(BlkStateTest, WithFlushWritesAreNotSynchronous) {
  rig.start(kFlushBit);
  fake.on_call = [&](const IoCall& call) {
    EXPECT_EQ(call.flags, 0);
    return FakeEngine::make_call(call);
  };
  EXPECT_EQ(rig.run(rig.write_request(0, 0, sector_text('d'))), VIRTIO_BLK_S_OK);
}

// --- Broken drivers ---

TEST_F(BlkStateTest, RequestWithoutHeaderOrStatusNeedsAReset) {
  const std::vector<std::vector<Segment>> broken{
      {{status_at(0), 1, true}},
      {{header_at(0), 15}, {status_at(0), 1, true}},
      {{header_at(0), 16}},
      {{header_at(0), 16}, {data_at(0), 512}},
      {{header_at(0), 16}, {status_at(0), 0, true}},
  };
  for (const auto& segments : broken) {
    rig.restart();
    rig.submit(0, segments);
    EXPECT_TRUE(rig.needs_reset());
    EXPECT_FALSE(rig.take_used(0));
  }
  rig.restart();
  EXPECT_EQ(rig.run(rig.read_request(0, 0, 512)), VIRTIO_BLK_S_OK);
}

TEST_F(BlkStateTest, WhatIsUnderWayWhenAResetIsNeededIsDroppedQuietly) {
  rig.start();
  fake.hold = true;
  rig.add(0, rig.read_request(0, 0, 512));
  rig.submit(0, {{status_at(1), 1, true}});
  EXPECT_TRUE(rig.needs_reset());
  ASSERT_EQ(fake.started.size(), 1U);
  fake.end();
  rig.loop.settle();
  EXPECT_FALSE(rig.take_used(0)) << "the queue is taboo";
  EXPECT_EQ(rig.status_of(0), kPending);
  EXPECT_TRUE(rig.is_dirty(data_at(0))) << "the data came all the same";
}

TEST_F(BlkStateTest, HugeRequestsNeedAResetNotMemory) {
  rig.start();
  std::vector<Segment> segments{{header_at(0), 16}};
  for (int i = 0; i < 14; ++i) segments.push_back({kRigRam, kRigRamSize, true});
  segments.push_back({status_at(0), 1, true});
  rig.poke(header_at(0), virtio_blk_outhdr{VIRTIO_BLK_T_IN, 0, 0});
  // Within the limit, but more than the disk has.
  rig.submit(0, segments);
  EXPECT_FALSE(rig.needs_reset());
  EXPECT_EQ(rig.status_of(0), VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(fake.submits, 0);
}

// --- Reset ---

TEST_F(BlkStateTest, ResetWaitsForWhatIsUnderWay) {
  rig.start();
  fake.hold = true;
  for (unsigned slot = 0; slot < 3; ++slot) rig.submit(0, rig.read_request(slot, slot, 512));
  EXPECT_EQ(fake.started.size(), 3U);
  rig.write(VIRTIO_MMIO_STATUS, 0);
  EXPECT_TRUE(fake.started.empty());
  EXPECT_TRUE(rig.is_dirty(data_at(0)));
  // Nothing comes later.
  rig.poke(status_at(0), kPending);
  rig.loop.settle();
  EXPECT_EQ(rig.status_of(0), kPending);
  EXPECT_EQ(rig.peek<std::uint16_t>(VirtioRig::used(0) + 2), 0U);
}

// Again and again, from another thread, as a vCPU would while the event loop is at work.
TEST(BlkResetTest, ResetComesAtAnyTime) {
  for (const bool uring : {true, false}) {
    BlkRig rig;
    rig.attach_disk(false,
                    (uring ? make_uring_engine(Blk::kQueueSize) : make_thread_engine()).value());
    for (int round = 0; round < 30; ++round) {
      rig.restart();
      for (unsigned slot = 0; slot < 5; ++slot) {
        rig.add(0, slot % 2 == 0 ? rig.read_request(slot, slot * 64, 0x8000)
                                 : rig.write_request(slot, slot * 64, sector_text('t', 64)));
      }
      rig.kick(0);
      std::thread vcpu([&] {
        if (round % 3 == 0) std::this_thread::yield();
        rig.write(VIRTIO_MMIO_STATUS, 0);
        const auto ring = rig.peek<std::uint16_t>(VirtioRig::used(0) + 2);
        for (unsigned slot = 0; slot < 5; ++slot) rig.poke(data_at(slot), std::uint64_t{42});
        std::this_thread::sleep_for(std::chrono::microseconds(200));
        EXPECT_EQ(rig.peek<std::uint16_t>(VirtioRig::used(0) + 2), ring);
        for (unsigned slot = 0; slot < 5; ++slot) {
          EXPECT_EQ(rig.peek<std::uint64_t>(data_at(slot)), 42U) << "written after the reset";
        }
      });
      rig.loop.turn();
      rig.loop.turn();
      vcpu.join();
      ASSERT_TRUE(rig.loop.settle());
    }
    rig.restart();
    EXPECT_EQ(rig.run(rig.read_request(0, 0, 512)), VIRTIO_BLK_S_OK);
    rig.transport.reset();
  }
}

TEST_F(BlkStateTest, DeviceCanGoWhileRequestsAreUnderWay) {
  rig.start();
  fake.hold = true;
  rig.submit(0, rig.read_request(0, 0, 512));
  rig.transport.reset();  // under AddressSanitizer, what comes too late shows
  // The image outlives it, for the next machine.
  EXPECT_TRUE(rig.image->held());
}

// --- Pause and saved state ---

TEST_F(BlkStateTest, QuiesceAnswersWhatIsUnderWay) {
  rig.start();
  fake.hold = true;
  for (unsigned slot = 0; slot < 3; ++slot) rig.submit(0, rig.read_request(slot, slot, 512));
  rig.transport->quiesce();
  EXPECT_TRUE(fake.started.empty());
  for (unsigned slot = 0; slot < 3; ++slot) {
    EXPECT_TRUE(rig.take_used(0));
    EXPECT_EQ(rig.status_of(slot), VIRTIO_BLK_S_OK);
  }
  // What comes now waits.
  rig.submit(0, rig.read_request(3, 3, 512));
  EXPECT_TRUE(fake.started.empty());
  EXPECT_FALSE(rig.take_used(0));
  rig.transport->resume();
  rig.loop.settle();
  ASSERT_EQ(fake.started.size(), 1U);
  fake.end();
  rig.loop.settle();
  EXPECT_TRUE(rig.take_used(0));
}

TEST_F(BlkStateTest, EveryStateSurvivesSaveAndRestore) {
  const std::vector<std::pair<std::string, std::function<void()>>> ways{
      {"fresh", [] {}},
      {"negotiating",
       [&] {
         rig.write(VIRTIO_MMIO_STATUS, VIRTIO_CONFIG_S_ACKNOWLEDGE);
         rig.write(VIRTIO_MMIO_STATUS, VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER);
         rig.write_features(rig.offered());
         rig.set_queue(0);
       }},
      {"running", [&] { rig.start(); }},
      {"drained",
       [&] {
         rig.start();
         rig.add(0, rig.write_request(0, 0, sector_text('s')));
         rig.add(0, rig.read_request(1, 8, 4096));
         rig.add(0, rig.flush_request(2));
         rig.kick(0);
         rig.loop.turn();
       }},
      {"broken",
       [&] {
         rig.start();
         rig.submit(0, {{header_at(0), 16}});
       }},
  };
  for (const auto& [name, reach] : ways) {
    SCOPED_TRACE(name);
    rig.attach_disk();
    reach();
    rig.transport->quiesce();
    const auto state = saved(*rig.transport);
    const bool broken = rig.needs_reset();

    rig.transport.reset();
    auto device = Blk::create({.name = "disk.root", .serial = ""}, *rig.image,
                              make_io_engine(Blk::kQueueSize).value(), rig.memory, rig.loop);
    rig.transport =
        MmioTransport::create(std::move(device).value(), rig.memory, rig.edge, rig.loop).value();
    EXPECT_NE(saved(*rig.transport) == state, name != "fresh");
    expect_hostile_bytes_refused(*rig.transport, state);
    ASSERT_TRUE(restored(*rig.transport, state));
    EXPECT_EQ(saved(*rig.transport), state);
    rig.transport->resume();
    rig.loop.settle();
    EXPECT_EQ(rig.needs_reset(), broken);
    if (name == "running" || name == "drained") {
      while (rig.take_used(0)) {
      }
      EXPECT_EQ(rig.run(rig.read_request(3, 0, 512)), VIRTIO_BLK_S_OK);
    }
    rig.write(VIRTIO_MMIO_STATUS, 0);
    for (const std::uint64_t ring : {VirtioRig::available(0), VirtioRig::used(0)}) {
      rig.poke(ring, std::uint32_t{0});
    }
  }
}

TEST_F(BlkStateTest, StateOfAnotherDiskIsRefused) {
  rig.start();
  rig.transport->quiesce();
  const auto state = saved(*rig.transport);
  // Behind the transport's state: length, version, capacity, block size.
  const std::size_t version = state.size() - 16;
  expect_field_refused(*rig.transport, state, version, std::uint32_t{2});
  expect_field_refused(*rig.transport, state, version + 4, kImageSize / kSectorSize + 1);
  expect_field_refused(*rig.transport, state, version + 12, std::uint32_t{4096});
  // A byte more than there should be.
  auto longer = state;
  longer.push_back(std::byte{0});
  const auto length = static_cast<std::uint32_t>(17);
  std::memcpy(longer.data() + version - 4, &length, sizeof length);
  ByteReader reader(longer);
  EXPECT_FALSE(rig.transport->restore(reader));
}

}  // namespace
}  // namespace vmm::virtio
