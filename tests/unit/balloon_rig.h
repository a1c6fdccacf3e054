#pragma once

#include <linux/virtio_balloon.h>

#include <algorithm>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "devices/virtio/balloon.h"
#include "virtio_rig.h"

// A balloon with a driver that a test plays.
namespace vmm::virtio {

inline constexpr unsigned kInflate = 0;
inline constexpr unsigned kDeflate = 1;
inline constexpr unsigned kStatistics = 2;
inline constexpr std::uint64_t kStats = 1U << VIRTIO_BALLOON_F_STATS_VQ;
inline constexpr std::uint64_t kReporting = 1U << VIRTIO_BALLOON_F_REPORTING;
inline constexpr std::uint64_t kDeflateOnOom = 1U << VIRTIO_BALLOON_F_DEFLATE_ON_OOM;
inline constexpr std::uint32_t kPage = 4096;
// Memory that the guest gives up, apart from the lists that say so.
inline constexpr std::uint64_t kGiven = kRigBuffers + 0x10'0000;

class VirtioBalloonTest : public ::testing::Test {
 protected:
  VirtioBalloonTest() { attach(rig); }

  static void attach(VirtioRig& to) { to.attach(std::make_unique<Balloon>(to.memory, to.loop)); }
  static Balloon& balloon_of(VirtioRig& of) {
    return dynamic_cast<Balloon&>(of.transport->device());
  }
  Balloon& balloon() { return balloon_of(rig); }

  // A driver that has gone, and the next one, with rings of its own.
  void restart(std::optional<std::uint64_t> features = {}) {
    rig.write(VIRTIO_MMIO_STATUS, 0);
    const auto rings = rig.memory.slice(kRigRam, VirtioRig::table(8) - kRigRam).value();
    std::ranges::fill(rings, std::byte{0});
    rig.start(features);
  }

  std::uint32_t config(std::uint64_t offset) {
    return static_cast<std::uint32_t>(mmio_read(*rig.transport, VIRTIO_MMIO_CONFIG + offset));
  }
  std::uint64_t counter(std::string_view name) {
    for (const auto& [key, value] : balloon().counters()) {
      if (key == name) return value;
    }
    ADD_FAILURE() << name;
    return 0;
  }
  // Fills pages from kGiven on, so that it shows which of them went.
  void fill(int pages) {
    for (int page = 0; page < pages; ++page) {
      rig.poke(kGiven + static_cast<std::uint64_t>(page) * kPage, std::uint64_t{0x1122});
      rig.poke(kGiven + static_cast<std::uint64_t>(page + 1) * kPage - 8, std::uint64_t{0x3344});
    }
  }
  // Whether the page went as a whole ('.'), is there as a whole ('#'), or else ('?').
  std::string pages(int count) {
    std::string map;
    for (int page = 0; page < count; ++page) {
      const auto at = kGiven + static_cast<std::uint64_t>(page) * kPage;
      const auto first = rig.peek<std::uint64_t>(at);
      const auto last = rig.peek<std::uint64_t>(at + kPage - 8);
      map += first == 0 && last == 0 ? '.' : first == 0x1122 && last == 0x3344 ? '#' : '?';
    }
    return map;
  }
  static std::uint32_t number(int page) {
    return static_cast<std::uint32_t>(kGiven / kPage) + static_cast<std::uint32_t>(page);
  }
  // Writes a list of page numbers and returns the segment that it is.
  Segment list(const std::vector<std::uint32_t>& numbers) {
    for (std::size_t i = 0; i < numbers.size(); ++i) rig.poke(kRigBuffers + i * 4, numbers[i]);
    return {kRigBuffers, static_cast<std::uint32_t>(numbers.size() * 4)};
  }
  void submit(unsigned queue, const std::vector<std::uint32_t>& numbers) {
    const auto head = rig.submit(queue, {list(numbers)});
    const auto used = rig.take_used(queue);
    ASSERT_TRUE(used);
    EXPECT_EQ(used->id, head);
    EXPECT_EQ(used->len, 0U);
  }
  // Puts statistics into the queue, as a driver answers.
  void tell(const std::vector<std::pair<std::uint16_t, std::uint64_t>>& values) {
    std::uint64_t at = kRigBuffers + 0x8000;
    for (const auto& [tag, value] : values) {
      rig.poke(at, tag);
      rig.poke(at + 2, value);
      at += 10;
    }
    rig.submit(kStatistics,
               {{kRigBuffers + 0x8000, static_cast<std::uint32_t>(values.size() * 10)}});
  }

  VirtioRig rig;
};

}  // namespace vmm::virtio
