#include "devices/virtio/console.h"

#include <linux/virtio_console.h>
#include <linux/virtio_ids.h>

#include <thread>

#include "virtio_rig.h"

namespace vmm::virtio {
namespace {

constexpr unsigned kReceive = 0;
constexpr unsigned kTransmit = 1;
constexpr std::uint64_t kEventIndex = std::uint64_t{1} << VIRTIO_RING_F_EVENT_IDX;

class VirtioConsoleTest : public ::testing::Test {
 protected:
  VirtioConsoleTest() { attach(rig); }

  // Puts a console behind a rig's transport; its bytes go to sink.
  void attach(VirtioRig& to) {
    auto console = std::make_unique<Console>(sink);
    console->set_on_rx_space([this] { ++space_events; });
    to.attach(std::move(console));
  }
  static Console& console_of(VirtioRig& of) {
    return dynamic_cast<Console&>(of.transport->device());
  }
  Console& console() { return console_of(rig); }
  // A driver that has gone, and the next one, with rings of its own.
  void restart(std::optional<std::uint64_t> features = {}) {
    rig.write(VIRTIO_MMIO_STATUS, 0);
    const auto rings = rig.memory.slice(kRigRam, VirtioRig::table(8) - kRigRam).value();
    std::ranges::fill(rings, std::byte{0});
    rig.start(features);
  }
  std::size_t receive(std::string_view text) { return console().receive(as_input(text)); }
  // Puts up `count` buffers of `size` bytes to receive into.
  void add_buffers(int count, std::uint32_t size) {
    for (int i = 0; i < count; ++i) {
      rig.add(kReceive, {{kRigBuffers + buffers++ % 256 * 0x1000ULL, size, true}});
    }
    rig.kick(kReceive);
    ASSERT_TRUE(rig.loop.settle());
  }
  // What has arrived in buffers of add_buffers().
  std::string arrived() {
    std::string text;
    while (const auto used = rig.take_used(kReceive)) {
      text += rig.peek_text(kRigBuffers + taken_buffers++ % 256 * 0x1000ULL, used->len);
    }
    return text;
  }
  std::uint16_t send(std::string_view text) {
    rig.poke_text(kRigBuffers, text);
    return rig.submit(kTransmit, {{kRigBuffers, static_cast<std::uint32_t>(text.size())}});
  }

  FakeSink sink;
  int space_events = 0;
  unsigned buffers = 0;
  unsigned taken_buffers = 0;
  VirtioRig rig;
};

TEST_F(VirtioConsoleTest, IsAConsoleOfOnePortWithASize) {
  EXPECT_EQ(rig.read(VIRTIO_MMIO_DEVICE_ID), unsigned{VIRTIO_ID_CONSOLE});
  EXPECT_EQ(rig.transport->queue_count(), 2U);
  EXPECT_NE(rig.offered() & 1U << VIRTIO_CONSOLE_F_SIZE, 0U);
  EXPECT_EQ(rig.offered() & 1U << VIRTIO_CONSOLE_F_MULTIPORT, 0U);
}

// --- Output ---

TEST_F(VirtioConsoleTest, OutputReachesTheSinkInOrder) {
  rig.start();
  for (const char* text : {"one ", "two ", "three"}) {
    const auto head = send(text);
    const auto used = rig.take_used(kTransmit);
    ASSERT_TRUE(used);
    EXPECT_EQ(used->id, head);
    EXPECT_EQ(used->len, 0U);
  }
  EXPECT_EQ(sink.text, "one two three");
  EXPECT_EQ(rig.edge.count, 3);
}

TEST_F(VirtioConsoleTest, PiecesOfARequestAreOneOutput) {
  rig.start();
  rig.poke_text(kRigBuffers, "ab");
  rig.poke_text(kRigBuffers + 0x5000, "cd");
  rig.submit(
      kTransmit,
      {{kRigBuffers, 1}, {kRigBuffers + 1, 0}, {kRigBuffers + 1, 1}, {kRigBuffers + 0x5000, 2}});
  EXPECT_EQ(sink.text, "abcd");
}

TEST_F(VirtioConsoleTest, MuchOutputIsHandedOnInTurns) {
  rig.start();
  const std::string text(32 * 1024, 'x');
  rig.poke_text(kRigBuffers, text);
  for (int i = 0; i < 8; ++i) rig.add(kTransmit, {{kRigBuffers, 32 * 1024}});
  rig.kick(kTransmit);
  ASSERT_TRUE(rig.loop.turn());
  EXPECT_EQ(sink.text.size(), 64U * 1024) << "then others get their turn";
  ASSERT_TRUE(rig.loop.settle());
  EXPECT_EQ(sink.text.size(), 256U * 1024);
  int used = 0;
  while (rig.take_used(kTransmit)) ++used;
  EXPECT_EQ(used, 8);
}

TEST_F(VirtioConsoleTest, TheWritablePartOfOutputIsLeftAlone) {
  rig.start();
  rig.poke_text(kRigBuffers, "out");
  rig.poke_text(kRigBuffers + 0x1000, "mine");
  rig.submit(kTransmit, {{kRigBuffers, 3}, {kRigBuffers + 0x1000, 4, true}});
  EXPECT_EQ(sink.text, "out");
  EXPECT_EQ(rig.take_used(kTransmit)->len, 0U);
  EXPECT_EQ(rig.peek_text(kRigBuffers + 0x1000, 4), "mine");
  rig.submit(kTransmit, {{kRigBuffers + 0x1000, 4, true}});
  EXPECT_EQ(sink.text, "out");
  EXPECT_TRUE(rig.take_used(kTransmit)) << "empty requests come back, too";
}

TEST_F(VirtioConsoleTest, ARequestOutsideOfRamNeedsAReset) {
  rig.start();
  send("good");
  rig.submit(kTransmit, {{kRigRam + kRigRamSize - 4, 8}});
  EXPECT_TRUE(rig.needs_reset());
  EXPECT_EQ(sink.text, "good");
  EXPECT_EQ(receive("x"), 0U) << "no queue is touched";
  restart();
  send(", again");
  EXPECT_EQ(sink.text, "good, again");
}

TEST_F(VirtioConsoleTest, WhatCameBeforeAMistakeIsGivenBack) {
  rig.start();
  rig.poke_text(kRigBuffers, "good");
  rig.add(kTransmit, {{kRigBuffers, 4}});
  rig.submit(kTransmit, {{0, 8}});
  EXPECT_TRUE(rig.needs_reset());
  EXPECT_EQ(sink.text, "good");
  EXPECT_TRUE(rig.take_used(kTransmit));
  EXPECT_FALSE(rig.take_used(kTransmit));
}

// --- Input ---

TEST_F(VirtioConsoleTest, InputGoesIntoTheDriversBuffers) {
  rig.start();
  add_buffers(3, 4);
  EXPECT_EQ(receive("abcdef"), 6U);
  EXPECT_EQ(rig.edge.count, 1) << "one interrupt for all of it";
  const auto first = rig.take_used(kReceive);
  ASSERT_TRUE(first);
  EXPECT_EQ(first->len, 4U);
  EXPECT_EQ(rig.peek_text(kRigBuffers, 4), "abcd");
  EXPECT_TRUE(rig.is_dirty(kRigBuffers));
  const auto second = rig.take_used(kReceive);
  ASSERT_TRUE(second);
  EXPECT_EQ(second->len, 2U);
  EXPECT_EQ(rig.peek_text(kRigBuffers + 0x1000, 2), "ef");
  EXPECT_FALSE(rig.take_used(kReceive)) << "the third buffer is for what comes next";
  EXPECT_EQ(receive("g"), 1U);
  EXPECT_EQ(rig.take_used(kReceive)->len, 1U);
}

TEST_F(VirtioConsoleTest, InputWithoutADriverIsRefusedAndAskedForOnceThereIsOne) {
  EXPECT_EQ(receive("early"), 0U);
  EXPECT_EQ(space_events, 0);
  rig.start();
  EXPECT_EQ(space_events, 1);
  EXPECT_EQ(receive("early"), 0U) << "no buffers yet";
  add_buffers(1, 16);
  EXPECT_EQ(space_events, 2);
  EXPECT_EQ(receive("early"), 5U);
  EXPECT_EQ(arrived(), "early");
}

TEST_F(VirtioConsoleTest, NothingIsLostWhateverTheBuffers) {
  for (const std::uint64_t features : {std::uint64_t{0}, kEventIndex}) {
    buffers = taken_buffers = 0;
    restart(features);
    std::string text;
    for (int i = 0; i < 5000; ++i) text += static_cast<char>('a' + i % 23);
    std::size_t sent = 0;
    std::string got;
    for (int round = 0; got.size() < text.size(); ++round) {
      ASSERT_LT(round, 10'000);
      const auto piece = std::string_view(text).substr(sent, static_cast<std::size_t>(round % 90));
      const auto taken = receive(piece);
      sent += taken;
      const int events = space_events;
      got += arrived();
      if (taken < piece.size()) {
        add_buffers(1 + round % 7, static_cast<std::uint32_t>(1 + round % 40));
        ASSERT_EQ(space_events, events + 1) << "whoever was refused is told";
      }
      if (sent == text.size()) got += arrived();
    }
    EXPECT_EQ(got, text);
  }
}

TEST_F(VirtioConsoleTest, ADriverIsAskedToKickOnlyWhenBuffersRunOut) {
  rig.start(0);
  add_buffers(2, 4);
  const auto no_kicks = [this] {
    return rig.peek<std::uint16_t>(VirtioRig::used(kReceive)) == VRING_USED_F_NO_NOTIFY;
  };
  EXPECT_TRUE(no_kicks());
  EXPECT_EQ(receive("abcd"), 4U);
  EXPECT_TRUE(no_kicks());
  EXPECT_EQ(receive("efghij"), 4U);
  EXPECT_FALSE(no_kicks());
  add_buffers(1, 4);
  EXPECT_TRUE(no_kicks());
  EXPECT_EQ(space_events, 1);
}

TEST_F(VirtioConsoleTest, BuffersWithoutRoomComeBackEmpty) {
  rig.start();
  rig.add(kReceive, {{kRigBuffers, 4}});
  rig.add(kReceive, {{kRigBuffers, 0, true}});
  rig.add(kReceive, {{kRigBuffers, 4}, {kRigBuffers + 0x1000, 4, true}});
  rig.poke_text(kRigBuffers, "mine");
  EXPECT_EQ(receive("abcdef"), 4U);
  EXPECT_EQ(rig.peek_text(kRigBuffers, 4), "mine") << "the readable part is not for input";
  EXPECT_EQ(rig.peek_text(kRigBuffers + 0x1000, 4), "abcd");
  for (const std::uint32_t length : {0U, 0U, 4U}) {
    const auto used = rig.take_used(kReceive);
    ASSERT_TRUE(used);
    EXPECT_EQ(used->len, length);
  }
}

TEST_F(VirtioConsoleTest, ABrokenBufferNeedsAResetAndLosesNothing) {
  rig.start();
  rig.add(kReceive, {{kRigBuffers, 4, true}});
  rig.add(kReceive, {{kRigRam + kRigRamSize, 4, true}});
  EXPECT_EQ(receive("abcdef"), 4U);
  EXPECT_TRUE(rig.needs_reset());
  const auto used = rig.take_used(kReceive);
  ASSERT_TRUE(used);
  EXPECT_EQ(rig.peek_text(kRigBuffers, used->len), "abcd");
  EXPECT_EQ(receive("ef"), 0U);
  restart();
  EXPECT_EQ(space_events, 1);
}

TEST_F(VirtioConsoleTest, EndlessEmptyBuffersDoNotHoldUpTheLoop) {
  rig.start();
  rig.put_descriptor(VirtioRig::table(kReceive), {kRigBuffers, 0, VRING_DESC_F_WRITE, 0});
  std::atomic<bool> stop = false;
  // A vCPU that always puts up one more.
  std::thread driver([&] {
    while (!stop) rig.offer(kReceive, 0);
  });
  for (int i = 0; i < 100; ++i) {
    static_cast<void>(receive("x"));
    rig.loop.turn();
    if (rig.needs_reset()) {
      // The driver got too far ahead.
      rig.write(VIRTIO_MMIO_STATUS, 0);
      break;
    }
  }
  stop = true;
  driver.join();
}

// --- Size ---

TEST_F(VirtioConsoleTest, TheSizeIsInTheConfigurationSpace) {
  EXPECT_EQ(mmio_read(*rig.transport, VIRTIO_MMIO_CONFIG, 4), 0U) << "unknown";
  console().set_size(132, 43);
  EXPECT_EQ(rig.edge.count, 0) << "there is no driver yet";
  rig.start();
  EXPECT_EQ(mmio_read(*rig.transport, VIRTIO_MMIO_CONFIG, 2), 132U);
  EXPECT_EQ(mmio_read(*rig.transport, VIRTIO_MMIO_CONFIG + 2, 2), 43U);
  EXPECT_EQ(mmio_read(*rig.transport, VIRTIO_MMIO_CONFIG, 4), 43U << 16 | 132U);
  EXPECT_EQ(mmio_read(*rig.transport, VIRTIO_MMIO_CONFIG, 8), 43ULL << 16 | 132U);
  EXPECT_EQ(mmio_read(*rig.transport, VIRTIO_MMIO_CONFIG + 10, 8), 0U);
  EXPECT_EQ(mmio_read(*rig.transport, VIRTIO_MMIO_CONFIG + 100, 4), 0U);
}

TEST_F(VirtioConsoleTest, AChangeOfSizeInterruptsTheDriver) {
  rig.start();
  const auto generation = rig.read(VIRTIO_MMIO_CONFIG_GENERATION);
  console().set_size(80, 24);
  EXPECT_EQ(rig.edge.count, 1);
  EXPECT_EQ(rig.read(VIRTIO_MMIO_INTERRUPT_STATUS), unsigned{VIRTIO_MMIO_INT_CONFIG});
  EXPECT_NE(rig.read(VIRTIO_MMIO_CONFIG_GENERATION), generation);
  console().set_size(80, 24);
  EXPECT_EQ(rig.edge.count, 1) << "nothing has changed";
  mmio_write(*rig.transport, VIRTIO_MMIO_CONFIG, 99, 2);
  EXPECT_EQ(mmio_read(*rig.transport, VIRTIO_MMIO_CONFIG, 2), 80U) << "the driver cannot";
  rig.write(VIRTIO_MMIO_STATUS, 0);
  EXPECT_EQ(mmio_read(*rig.transport, VIRTIO_MMIO_CONFIG, 2), 80U) << "the terminal is the same";
}

TEST_F(VirtioConsoleTest, ASizeThatComesWhileQuietWaits) {
  rig.start();
  rig.transport->quiesce();
  const auto before = saved(*rig.transport);
  console().set_size(80, 24);
  console().set_size(100, 30);
  EXPECT_EQ(saved(*rig.transport), before);
  EXPECT_EQ(rig.edge.count, 0);
  rig.transport->resume();
  EXPECT_EQ(rig.edge.count, 1);
  EXPECT_EQ(mmio_read(*rig.transport, VIRTIO_MMIO_CONFIG, 4), 30U << 16 | 100U);
}

// --- Saved state ---

TEST_F(VirtioConsoleTest, QuietTakesNoInputAndOffersSpaceAfterwards) {
  rig.start();
  add_buffers(2, 16);
  rig.transport->quiesce();
  const auto before = saved(*rig.transport);
  EXPECT_EQ(receive("abc"), 0U);
  rig.poke_text(kRigBuffers, "out");
  rig.add(kTransmit, {{kRigBuffers, 3}});
  rig.kick(kTransmit);
  ASSERT_TRUE(rig.loop.settle());
  EXPECT_EQ(sink.text, "");
  EXPECT_EQ(saved(*rig.transport), before);
  rig.transport->resume();
  ASSERT_TRUE(rig.loop.settle());
  EXPECT_EQ(sink.text, "out");
  EXPECT_EQ(space_events, 1);
  EXPECT_EQ(receive("abc"), 3U);
}

// Moves the console to another machine, with guest memory as it is, and goes on there.
class VirtioConsoleMoveTest : public VirtioConsoleTest, public ::testing::WithParamInterface<int> {
 protected:
  // The states there are: what the driver has done so far.
  void reach(int state) {
    if (state >= 1) console().set_size(80, 25);
    if (state >= 2) rig.write(VIRTIO_MMIO_STATUS, VIRTIO_CONFIG_S_ACKNOWLEDGE);
    if (state >= 3) {
      restart(state == 6 ? kEventIndex : 0);
    }
    if (state >= 4) add_buffers(5, 8);
    if (state >= 5) {
      ASSERT_EQ(receive("0123456789"), 10U);
      send("hello");
      rig.poke_text(kRigBuffers + 0x9'0000, " world");
      rig.add(kTransmit, {{kRigBuffers + 0x9'0000, 6}});  // not kicked yet
    }
    if (state >= 7) rig.submit(kTransmit, {{0, 1}});  // NEEDS_RESET
  }
};

TEST_P(VirtioConsoleMoveTest, SavedStateIsTheSameAfterRestore) {
  reach(GetParam());
  rig.transport->quiesce();
  const auto state = saved(*rig.transport);
  VirtioRig other;
  attach(other);
  other.transport->quiesce();
  std::memcpy(other.memory.regions()[0].bytes.data(), rig.memory.regions()[0].bytes.data(),
              kRigRamSize);
  ASSERT_TRUE(restored(*other.transport, state));
  EXPECT_EQ(saved(*other.transport), state);
  expect_hostile_bytes_refused(*other.transport, state);
  const int events = space_events;
  EXPECT_EQ(console_of(other).receive(as_input("x")), 0U);
  sink.text.clear();
  other.transport->resume();
  ASSERT_TRUE(other.loop.settle());
  const bool running = GetParam() >= 3 && GetParam() < 7;
  EXPECT_EQ(space_events - events, running ? 1 : 0);
  EXPECT_EQ(sink.text, GetParam() == 5 || GetParam() == 6 ? " world" : "");
  EXPECT_EQ(console_of(other).receive(as_input("rest")), running && GetParam() >= 4 ? 4U : 0U);
}

INSTANTIATE_TEST_SUITE_P(States, VirtioConsoleMoveTest, ::testing::Range(0, 8));

TEST_F(VirtioConsoleTest, CountsWhatItCarries) {
  rig.start();
  add_buffers(1, 4);
  send("123");
  ASSERT_EQ(receive("abcdef"), 4U);
  const auto counters = console().counters();
  ASSERT_EQ(counters.size(), 2U);
  EXPECT_EQ(counters[0].name, "input_bytes");
  EXPECT_EQ(counters[0].value, 4U);
  EXPECT_EQ(counters[1].name, "output_bytes");
  EXPECT_EQ(counters[1].value, 3U);
}

}  // namespace
}  // namespace vmm::virtio
