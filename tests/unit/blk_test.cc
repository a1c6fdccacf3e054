#include "devices/virtio/blk.h"

#include <sys/stat.h>

#include <map>
#include <random>
#include <set>

#include "blk_rig.h"

namespace vmm::virtio {
namespace {

// Every test of requests runs with both engines.
class BlkTest : public ::testing::TestWithParam<bool> {
 protected:
  BlkTest() { attach(false); }
  ~BlkTest() override { rig.transport.reset(); }
  void attach(bool read_only) {
    auto engine = GetParam() ? make_uring_engine(Blk::kQueueSize) : make_thread_engine();
    ASSERT_TRUE(engine) << engine.error().message();
    rig.attach_disk(read_only, std::move(engine).value());
  }
  BlkRig rig;
};

INSTANTIATE_TEST_SUITE_P(Engines, BlkTest, ::testing::Bool(),
                         [](const auto& tested) { return tested.param ? "uring" : "threads"; });

TEST_P(BlkTest, ReadsWhatIsInTheImage) {
  rig.file.write(3 * kSectorSize, sector_text('r', 2));
  rig.start();
  EXPECT_EQ(rig.run(rig.read_request(0, 3, 1024)), VIRTIO_BLK_S_OK);
  EXPECT_EQ(rig.answer->len, 1025U);
  EXPECT_EQ(rig.peek_text(data_at(0), 1024), sector_text('r', 2));
  EXPECT_TRUE(rig.is_dirty(data_at(0)));
  EXPECT_TRUE(rig.is_dirty(status_at(0)));
  EXPECT_EQ(rig.counter("reads"), 1U);
  EXPECT_EQ(rig.counter("bytes_read"), 1024U);
}

TEST_P(BlkTest, WritesToTheImage) {
  rig.start();
  EXPECT_EQ(rig.run(rig.write_request(0, 5, sector_text('w', 3))), VIRTIO_BLK_S_OK);
  EXPECT_EQ(rig.answer->len, 1U);
  EXPECT_EQ(rig.file.read(5 * kSectorSize, 1536), sector_text('w', 3));
  EXPECT_EQ(rig.file.read(8 * kSectorSize, 512), std::string(512, '\0'));
  EXPECT_FALSE(rig.is_dirty(data_at(0)));
  EXPECT_EQ(rig.counter("writes"), 1U);
  EXPECT_EQ(rig.counter("bytes_written"), 1536U);
}

TEST_P(BlkTest, ReachesTheLastSectorAndNotBeyond) {
  rig.start();
  const std::uint64_t last = kImageSize / kSectorSize - 1;
  EXPECT_EQ(rig.run(rig.write_request(0, last, sector_text('l'))), VIRTIO_BLK_S_OK);
  EXPECT_EQ(rig.run(rig.read_request(1, last, 512)), VIRTIO_BLK_S_OK);
  EXPECT_EQ(rig.peek_text(data_at(1), 512), sector_text('l'));
  for (const std::uint64_t sector : {last, last + 1, last + 2, UINT64_MAX / kSectorSize,
                                     UINT64_MAX / kSectorSize + 1, UINT64_MAX}) {
    EXPECT_EQ(rig.run(rig.read_request(0, sector, 1024)), VIRTIO_BLK_S_IOERR) << sector;
    EXPECT_EQ(rig.run(rig.write_request(0, sector, sector_text('x', 2))), VIRTIO_BLK_S_IOERR);
  }
  EXPECT_EQ(rig.file.read(last * kSectorSize, 512), sector_text('l'));
  struct stat status {};
  EXPECT_EQ(::stat(rig.file.path.c_str(), &status), 0);
  EXPECT_EQ(status.st_size, static_cast<off_t>(kImageSize));
  EXPECT_EQ(rig.counter("errors"), 0U) << "these are the driver's";
}

TEST_P(BlkTest, RefusesPartsOfSectors) {
  rig.start();
  for (const std::uint32_t bytes : {1U, 511U, 513U}) {
    EXPECT_EQ(rig.run(rig.read_request(0, 0, bytes)), VIRTIO_BLK_S_IOERR) << bytes;
    EXPECT_EQ(rig.run(rig.write_request(0, 0, std::string(bytes, 'x'))), VIRTIO_BLK_S_IOERR);
  }
}

TEST_P(BlkTest, TakesRequestsCutAnywhere) {
  rig.file.write(0, sector_text('a') + sector_text('b'));
  rig.start();
  rig.poke(header_at(0), virtio_blk_outhdr{VIRTIO_BLK_T_IN, 0, 0});
  // The header in three parts, the data in two, and the status behind the data in one part.
  EXPECT_EQ(rig.run({{header_at(0), 1},
                     {header_at(0) + 1, 8},
                     {header_at(0) + 9, 7},
                     {data_at(0), 100, true},
                     {data_at(1), 925, true}}),
            VIRTIO_BLK_S_OK);
  const std::string read = rig.peek_text(data_at(0), 100) + rig.peek_text(data_at(1), 924);
  EXPECT_EQ(read, sector_text('a') + sector_text('b'));

  rig.poke(data_at(2), virtio_blk_outhdr{VIRTIO_BLK_T_OUT, 0, 1});
  rig.poke_text(data_at(2) + sizeof(virtio_blk_outhdr), sector_text('c'));
  EXPECT_EQ(rig.run({{data_at(2), 300}, {data_at(2) + 300, 228}, {status_at(0), 1, true}}),
            VIRTIO_BLK_S_OK);
  EXPECT_EQ(rig.file.read(512, 512), sector_text('c'));
}

TEST_P(BlkTest, FlushesAndCounts) {
  rig.start();
  EXPECT_EQ(rig.run(rig.flush_request(0)), VIRTIO_BLK_S_OK);
  EXPECT_EQ(rig.counter("flushes"), 1U);
}

TEST_P(BlkTest, TellsItsSerialNumber) {
  rig.start();
  rig.poke_text(data_at(0), std::string(24, '#'));
  EXPECT_EQ(rig.run(rig.request(0, VIRTIO_BLK_T_GET_ID, 0, 20, true)), VIRTIO_BLK_S_OK);
  EXPECT_EQ(rig.peek_text(data_at(0), 24), "disk-0001" + std::string(11, '\0') + "####");
  EXPECT_EQ(rig.answer->len, 21U);
  // A driver with less or more room gets what fits.
  EXPECT_EQ(rig.run(rig.request(1, VIRTIO_BLK_T_GET_ID, 0, 4, true)), VIRTIO_BLK_S_OK);
  EXPECT_EQ(rig.peek_text(data_at(1), 4), "disk");
  EXPECT_EQ(rig.run(rig.request(2, VIRTIO_BLK_T_GET_ID, 0, 100, true)), VIRTIO_BLK_S_OK);
  EXPECT_EQ(rig.answer->len, 20U);
}

TEST_P(BlkTest, DiscardsGiveSpaceBack) {
  rig.file.write(0, std::string(kImageSize, 'd'));
  rig.start();
  const auto before = rig.file.allocated();
  EXPECT_EQ(rig.run(rig.range_request(0, VIRTIO_BLK_T_DISCARD, 8, 1024)), VIRTIO_BLK_S_OK);
  EXPECT_LT(rig.file.allocated(), before);
  EXPECT_EQ(rig.file.read(7 * 512, 512), sector_text('d'));
  EXPECT_EQ(rig.file.read(1032 * 512, 512), sector_text('d'));
  EXPECT_EQ(rig.counter("discards"), 1U);
}

TEST_P(BlkTest, WritesZeroesWithAndWithoutUnmap) {
  rig.file.write(0, std::string(kImageSize, 'z'));
  rig.start();
  for (const std::uint32_t flags : {0U, std::uint32_t{VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP}}) {
    const std::uint64_t sector = flags == 0 ? 8 : 100;
    EXPECT_EQ(rig.run(rig.range_request(0, VIRTIO_BLK_T_WRITE_ZEROES, sector, 16, flags)),
              VIRTIO_BLK_S_OK);
    EXPECT_EQ(rig.file.read(sector * 512, 16 * 512), std::string(16 * 512, '\0'));
    EXPECT_EQ(rig.file.read((sector - 1) * 512, 512), sector_text('z'));
    EXPECT_EQ(rig.file.read((sector + 16) * 512, 512), sector_text('z'));
  }
  EXPECT_EQ(rig.counter("write_zeroes"), 2U);
}

TEST_P(BlkTest, ChecksRangesOfDiscardsAndZeroes) {
  rig.file.write(0, std::string(kImageSize, 'k'));
  rig.start();
  const std::uint64_t end = kImageSize / kSectorSize;
  for (const std::uint32_t type : {VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_WRITE_ZEROES}) {
    EXPECT_EQ(rig.run(rig.range_request(0, type, end, 1)), VIRTIO_BLK_S_IOERR);
    EXPECT_EQ(rig.run(rig.range_request(0, type, end - 1, 2)), VIRTIO_BLK_S_IOERR);
    EXPECT_EQ(rig.run(rig.range_request(0, type, UINT64_MAX, 2)), VIRTIO_BLK_S_IOERR);
    EXPECT_EQ(rig.run(rig.range_request(0, type, 0, UINT32_MAX)), VIRTIO_BLK_S_IOERR);
    EXPECT_EQ(rig.run(rig.range_request(0, type, 0, 1, 0x8000'0000)), VIRTIO_BLK_S_UNSUPP);
    // No range, part of one, or more than the one that is offered.
    for (const std::uint32_t bytes : {0U, 15U, 17U, 32U}) {
      EXPECT_EQ(rig.run(rig.request(0, type, 0, bytes, false)), VIRTIO_BLK_S_IOERR) << bytes;
    }
  }
  EXPECT_EQ(
      rig.run(rig.range_request(0, VIRTIO_BLK_T_DISCARD, 0, 1, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP)),
      VIRTIO_BLK_S_UNSUPP);
  EXPECT_EQ(rig.file.read(0, kImageSize), std::string(kImageSize, 'k'));
}

TEST_P(BlkTest, ReadOnlyDiskRefusesEveryChange) {
  attach(true);
  rig.file.write(0, sector_text('o', 8));
  EXPECT_EQ(rig.offered() & std::uint64_t{1} << VIRTIO_BLK_F_DISCARD, 0U);
  EXPECT_NE(rig.offered() & std::uint64_t{1} << VIRTIO_BLK_F_RO, 0U);
  rig.start();
  EXPECT_EQ(rig.run(rig.write_request(0, 0, sector_text('x'))), VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(rig.run(rig.range_request(0, VIRTIO_BLK_T_DISCARD, 0, 8)), VIRTIO_BLK_S_UNSUPP);
  EXPECT_EQ(rig.run(rig.range_request(0, VIRTIO_BLK_T_WRITE_ZEROES, 0, 8)), VIRTIO_BLK_S_UNSUPP);
  EXPECT_EQ(rig.run(rig.read_request(0, 0, 512)), VIRTIO_BLK_S_OK);
  EXPECT_EQ(rig.run(rig.flush_request(0)), VIRTIO_BLK_S_OK);
  EXPECT_EQ(rig.file.read(0, 4096), sector_text('o', 8));
}

TEST_P(BlkTest, UnknownRequestsAreUnsupported) {
  rig.start();
  for (const std::uint32_t type : {2U, 3U, 14U, 0x100U, 0xffff'ffffU}) {
    EXPECT_EQ(rig.run(rig.request(0, type, 0, 512, true)), VIRTIO_BLK_S_UNSUPP) << type;
  }
}

// Random reads and writes, as many at once as fit, against a model of the image; each sector has
// one request at a time, so that what a read sees is known.
TEST_P(BlkTest, StormOfRequestsLosesNothingAndRepeatsNothing) {
  rig.start();
  constexpr unsigned kSlots = VirtioRig::kQueueSize / 3;
  constexpr unsigned kRegion = 64;
  std::mt19937 random(20261124);
  std::vector<std::string> model(kSlots, std::string(kRegion * kSectorSize, '\0'));
  struct Pending {
    unsigned slot;
    bool read;
    std::size_t offset;
    std::size_t bytes;
  };
  std::map<std::uint32_t, Pending> pending;
  std::set<unsigned> idle;
  for (unsigned slot = 0; slot < kSlots; ++slot) idle.insert(slot);
  int answers = 0;
  for (int made = 0; answers < 3000;) {
    while (!idle.empty() && made < 3000 && random() % 4 != 0) {
      const unsigned slot = *idle.begin();
      idle.erase(idle.begin());
      const std::size_t first = random() % kRegion;
      const std::size_t count = 1 + random() % std::min<std::size_t>(kRegion - first, 16);
      const std::uint64_t sector = slot * kRegion + first;
      const Pending next{slot, random() % 2 == 0, first * kSectorSize, count * kSectorSize};
      std::vector<Segment> segments;
      if (next.read) {
        segments = rig.read_request(slot, sector, static_cast<std::uint32_t>(next.bytes));
      } else {
        std::string text(next.bytes, '\0');
        for (char& letter : text) letter = static_cast<char>(random());
        model[slot].replace(next.offset, next.bytes, text);
        segments = rig.write_request(slot, sector, text);
      }
      pending[rig.add_in_slot(slot, segments)] = next;
      ++made;
    }
    rig.kick(0);
    rig.loop.turn(std::chrono::milliseconds(1));
    while (const auto element = rig.take_used(0)) {
      const auto at = pending.find(element->id);
      ASSERT_NE(at, pending.end()) << "answered twice, or never asked for";
      const Pending& was = at->second;
      ASSERT_EQ(rig.status_of(was.slot), VIRTIO_BLK_S_OK);
      if (was.read) {
        ASSERT_EQ(rig.peek_text(data_at(was.slot), was.bytes),
                  model[was.slot].substr(was.offset, was.bytes));
      }
      idle.insert(was.slot);
      pending.erase(at);
      ++answers;
    }
  }
  EXPECT_FALSE(rig.take_used(0));
  for (unsigned slot = 0; slot < kSlots; ++slot) {
    EXPECT_EQ(rig.file.read(slot * model[slot].size(), model[slot].size()), model[slot]);
  }
  EXPECT_EQ(rig.counter("reads") + rig.counter("writes"), 3000U);
}

}  // namespace
}  // namespace vmm::virtio
