#pragma once

#include <linux/virtio_blk.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "block_fakes.h"
#include "devices/virtio/blk.h"
#include "virtio_rig.h"

// A virtio disk with a driver that a test plays.
namespace vmm::virtio {

inline constexpr std::uint64_t kImageSize = 1 << 20;
inline constexpr std::uint64_t kFlushBit = std::uint64_t{1} << VIRTIO_BLK_F_FLUSH;
inline constexpr std::uint8_t kPending = 0xee;  // a status that the device has not written

// Where the driver keeps things, a slot per request.
constexpr std::uint64_t header_at(unsigned slot) {
  return kRigBuffers + slot * 0x100ULL;
}
constexpr std::uint64_t status_at(unsigned slot) {
  return header_at(slot) + 0x80;
}
constexpr std::uint64_t data_at(unsigned slot) {
  return kRigBuffers + 0x1'0000 + slot * 0x1'0000ULL;
}

inline std::string sector_text(char letter, unsigned sectors = 1) {
  return std::string(sectors * kSectorSize, letter);
}

class BlkRig : public VirtioRig {
 public:
  void attach_disk(bool read_only = false, std::unique_ptr<IoEngine> engine = nullptr,
                   std::string serial = "disk-0001") {
    if (!image || image->read_only() != read_only) {
      image.reset();
      image = file.open(read_only);
    }
    if (!engine) engine = make_io_engine(Blk::kQueueSize).value();
    transport.reset();
    attach(Blk::create({.name = "disk.root", .serial = std::move(serial)}, *image,
                       std::move(engine), memory, loop)
               .value());
  }
  FakeEngine& attach_fake() {
    auto engine = std::make_unique<FakeEngine>();
    FakeEngine& fake = *engine;
    attach_disk(false, std::move(engine));
    return fake;
  }

  // The segments of a request in a slot; data is written by the device where it is to be read.
  std::vector<Segment> request(unsigned slot, std::uint32_t type, std::uint64_t sector,
                               std::uint32_t data, bool data_writable) {
    poke(header_at(slot), virtio_blk_outhdr{type, 0, sector});
    poke(status_at(slot), kPending);
    std::vector<Segment> segments{{header_at(slot), sizeof(virtio_blk_outhdr)}};
    if (data != 0) segments.push_back({data_at(slot), data, data_writable});
    segments.push_back({status_at(slot), 1, true});
    return segments;
  }
  std::vector<Segment> read_request(unsigned slot, std::uint64_t sector, std::uint32_t bytes) {
    return request(slot, VIRTIO_BLK_T_IN, sector, bytes, true);
  }
  std::vector<Segment> write_request(unsigned slot, std::uint64_t sector, std::string_view text) {
    poke_text(data_at(slot), text);
    return request(slot, VIRTIO_BLK_T_OUT, sector, static_cast<std::uint32_t>(text.size()), false);
  }
  std::vector<Segment> flush_request(unsigned slot) {
    return request(slot, VIRTIO_BLK_T_FLUSH, 0, 0, false);
  }
  std::vector<Segment> range_request(unsigned slot, std::uint32_t type, std::uint64_t sector,
                                     std::uint32_t sectors, std::uint32_t flags = 0) {
    poke(data_at(slot), virtio_blk_discard_write_zeroes{sector, sectors, flags});
    return request(slot, type, 0, sizeof(virtio_blk_discard_write_zeroes), false);
  }
  // Makes a request from descriptors that belong to its slot, so that requests may come back in any
  // order; returns its head.
  std::uint16_t add_in_slot(unsigned slot, const std::vector<Segment>& segments) {
    EXPECT_EQ(segments.size(), 3U);
    const auto head = static_cast<std::uint16_t>(3 * slot);
    for (std::uint16_t i = 0; i < 3; ++i) {
      std::uint16_t flags = i < 2 ? VRING_DESC_F_NEXT : 0;
      if (segments[i].writable) flags |= VRING_DESC_F_WRITE;
      const auto next = static_cast<std::uint16_t>(head + i + 1);
      put_descriptor(table(0) + (head + i) * 16ULL,
                     {segments[i].address, segments[i].size, flags, next});
    }
    offer(0, head);
    return head;
  }
  // Resets the device, and starts it with empty rings.
  void restart() {
    write(VIRTIO_MMIO_STATUS, 0);
    for (const std::uint64_t ring : {available(0), used(0)}) poke(ring, std::uint32_t{0});
    start();
  }
  // Makes a request, waits for it and returns its status.
  std::uint8_t run(const std::vector<Segment>& segments) {
    const auto head = add(0, segments);
    kick(0);
    answer = wait_used(0);
    if (!answer) {
      ADD_FAILURE() << "no answer";
      return kPending;
    }
    EXPECT_EQ(answer->id, head);
    return peek<std::uint8_t>(segments.back().address + segments.back().size - 1);
  }
  std::uint8_t status_of(unsigned slot) { return peek<std::uint8_t>(status_at(slot)); }
  std::uint64_t counter(std::string_view wanted) {
    for (const Counter& counter : transport->device().counters()) {
      if (counter.name == wanted) return counter.value;
    }
    ADD_FAILURE() << "no counter " << wanted;
    return 0;
  }

  TempImage file{kImageSize};
  std::unique_ptr<DiskImage> image;
  std::optional<vring_used_elem> answer;  // of the last run()
};

}  // namespace vmm::virtio
