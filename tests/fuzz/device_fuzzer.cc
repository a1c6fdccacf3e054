#include "device_fuzzer.h"

#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>

#include <array>

#include "devices/virtio/ring.h"

namespace vmm::fuzz {
namespace {

// Turns of the loop that a device may need at most, once nothing changes any more.
constexpr int kTurnsToRest = 2000;
constexpr std::uint16_t kMaxQueueSize = 64;

GuestMemory& memory() {
  static GuestMemory ram =
      GuestMemory::create(DeviceFuzzer::kRam, DeviceFuzzer::kRamSize, Backing::kAnonymous).value();
  return ram;
}

// What the guest has written, without what the device has.
std::vector<std::byte>& guest_view() {
  static std::vector<std::byte> bytes(DeviceFuzzer::kRamSize);
  return bytes;
}

std::vector<std::byte> saved(const virtio::MmioTransport& transport) {
  ByteWriter writer;
  transport.save(writer);
  return writer.take();
}

}  // namespace

DeviceFuzzer::DeviceFuzzer(Make make, Event event)
    : make_(std::move(make)), event_(std::move(event)) {
  std::memset(memory().regions()[0].bytes.data(), 0, kRamSize);
  std::memset(guest_view().data(), 0, kRamSize);
  memory().device_dirty().clear();
  transport_ = attach();
  transport_->resume();
  queues_.resize(transport_->queue_count());
}

std::unique_ptr<virtio::MmioTransport> DeviceFuzzer::attach() {
  auto made = virtio::MmioTransport::create(make_(memory(), loop_), memory(), edge_, loop_);
  check(made.has_value(), "a transport is made");
  return std::move(made).value();
}

void DeviceFuzzer::run(Input& input) {
  while (!input.empty()) step(input);
  turn();
  transport_->quiesce();
  check_dirty();
}

void DeviceFuzzer::step(Input& input) {
  switch (input.below(14)) {
    case 0:
      return write_register(input);
    case 1:
      return access_anything(input);
    case 2:
      return start_driver(input);
    case 3:
    case 4:
      return add_request(input);
    case 5: {  // into a buffer
      const std::uint64_t at = kBuffers + input.get<std::uint16_t>();
      return poke(at, input.bytes(input.get<std::uint8_t>()));
    }
    case 6: {  // anywhere
      const std::uint64_t at = input.get<std::uint32_t>() % kRamSize;
      return poke(at, input.bytes(input.get<std::uint8_t>()));
    }
    case 7:
      return write(VIRTIO_MMIO_QUEUE_NOTIFY, input.get<std::uint8_t>());
    case 8:
      return turn();
    case 9:
      turn();
      return loop_.advance(std::chrono::milliseconds(input.get<std::uint16_t>()));
    case 10:
      return write(VIRTIO_MMIO_INTERRUPT_ACK, input.get<std::uint8_t>());
    case 11:
      return stop_and_move(input);
    case 12:
      if (event_) event_(transport_->device(), input);
      return;
    default:
      transport_->reset();
      return;
  }
}

void DeviceFuzzer::write(std::uint64_t offset, std::uint32_t value) {
  transport_->mmio_write(offset, std::as_bytes(std::span(&value, 1)));
}

std::uint32_t DeviceFuzzer::read(std::uint64_t offset) {
  std::uint32_t value = 0;
  transport_->mmio_read(offset, std::as_writable_bytes(std::span(&value, 1)));
  return value;
}

// Guest memory by offset from its start; what does not fit is left out.
void DeviceFuzzer::poke(std::uint64_t offset, std::span<const std::byte> bytes) {
  if (offset >= kRamSize) return;
  const auto fitting = bytes.first(std::min<std::size_t>(bytes.size(), kRamSize - offset));
  std::ranges::copy(fitting, &memory().regions()[0].bytes[offset]);
  std::ranges::copy(fitting, &guest_view()[offset]);
}

void DeviceFuzzer::write_register(Input& input) {
  constexpr auto kRegisters = std::to_array<std::uint64_t>(
      {VIRTIO_MMIO_STATUS, VIRTIO_MMIO_QUEUE_SEL, VIRTIO_MMIO_QUEUE_NUM, VIRTIO_MMIO_QUEUE_READY,
       VIRTIO_MMIO_QUEUE_DESC_LOW, VIRTIO_MMIO_QUEUE_DESC_HIGH, VIRTIO_MMIO_QUEUE_AVAIL_LOW,
       VIRTIO_MMIO_QUEUE_AVAIL_HIGH, VIRTIO_MMIO_QUEUE_USED_LOW, VIRTIO_MMIO_QUEUE_USED_HIGH,
       VIRTIO_MMIO_DRIVER_FEATURES_SEL, VIRTIO_MMIO_DRIVER_FEATURES,
       VIRTIO_MMIO_DEVICE_FEATURES_SEL});
  const auto offset = kRegisters[input.below(kRegisters.size())];
  // The low bits of most registers, or all.
  const bool wide = input.below(4) == 0;
  write(offset, wide ? input.get<std::uint32_t>() : input.get<std::uint8_t>());
}

void DeviceFuzzer::access_anything(Input& input) {
  std::array<std::byte, 8> bytes{};
  const std::size_t size = std::size_t{1} << input.below(4);
  const bool is_write = input.below(2) != 0;
  const auto offset = input.get<std::uint16_t>() % (virtio::MmioTransport::kWindow - size + 1);
  const auto data = std::span(bytes).first(size);
  if (is_write) {
    std::ranges::copy(input.bytes(size), data.begin());
    transport_->mmio_write(offset, data);
  } else {
    transport_->mmio_read(offset, data);
  }
}

// What a driver does up to DRIVER_OK (virtio 1.2, 3.1.1), with features and sizes from the input.
void DeviceFuzzer::start_driver(Input& input) {
  const auto wanted = input.get<std::uint64_t>();
  const auto size = static_cast<std::uint16_t>(1U << input.below(7));
  const auto queues_left_out = input.get<std::uint8_t>();
  write(VIRTIO_MMIO_STATUS, 0);
  std::uint32_t status = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER;
  write(VIRTIO_MMIO_STATUS, status);
  for (const std::uint32_t half : {0U, 1U}) {
    write(VIRTIO_MMIO_DEVICE_FEATURES_SEL, half);
    write(VIRTIO_MMIO_DRIVER_FEATURES_SEL, half);
    const std::uint64_t all = wanted | std::uint64_t{1} << VIRTIO_F_VERSION_1;
    const auto part = static_cast<std::uint32_t>(all >> (32 * half));
    write(VIRTIO_MMIO_DRIVER_FEATURES, read(VIRTIO_MMIO_DEVICE_FEATURES) & part);
  }
  status |= VIRTIO_CONFIG_S_FEATURES_OK;
  write(VIRTIO_MMIO_STATUS, status);
  for (std::uint32_t index = 0; index < queues_.size(); ++index) {
    write(VIRTIO_MMIO_QUEUE_SEL, index);
    const auto most = static_cast<std::uint16_t>(read(VIRTIO_MMIO_QUEUE_NUM_MAX));
    DriverQueue& queue = queues_[index];
    queue = {.size = std::min({size, most, kMaxQueueSize})};
    if (index < 8 && (queues_left_out >> index & 1) != 0) continue;
    const std::uint64_t at = kQueueArea * index;
    std::array<std::byte, kQueueArea> zeros{};
    poke(at, zeros);
    write(VIRTIO_MMIO_QUEUE_NUM, queue.size);
    write(VIRTIO_MMIO_QUEUE_DESC_LOW, static_cast<std::uint32_t>(kRam + at));
    write(VIRTIO_MMIO_QUEUE_AVAIL_LOW, static_cast<std::uint32_t>(kRam + at + kAvailable));
    write(VIRTIO_MMIO_QUEUE_USED_LOW, static_cast<std::uint32_t>(kRam + at + kUsed));
    write(VIRTIO_MMIO_QUEUE_READY, 1);
  }
  write(VIRTIO_MMIO_STATUS, status | VIRTIO_CONFIG_S_DRIVER_OK);
}

// Puts a chain of descriptors, well-formed but for what the input says, into an available ring.
void DeviceFuzzer::add_request(Input& input) {
  const unsigned index = input.below(static_cast<std::uint8_t>(queues_.size()));
  DriverQueue& queue = queues_[index];
  const unsigned shape = input.get<std::uint8_t>();
  const bool indirect = (shape & 8) != 0;
  const bool kicks = (shape & 16) != 0;
  const unsigned count = (shape & 7) + 1;
  if (queue.size == 0) return;
  const std::uint64_t area = kQueueArea * index;
  const auto head = queue.next_descriptor;
  const std::uint64_t table = indirect ? kIndirect + head * 0x80ULL : area;
  const unsigned entries = indirect ? count : queue.size;
  for (unsigned i = 0; i < count; ++i) {
    const unsigned at = indirect ? i : (head + i) % entries;
    const unsigned kind = input.get<std::uint8_t>();
    vring_desc descriptor{};
    descriptor.addr = kRam + kBuffers + input.get<std::uint16_t>();
    descriptor.len = (kind & 4) != 0 ? input.get<std::uint16_t>() : input.get<std::uint8_t>();
    if ((kind & 1) != 0) descriptor.flags |= VRING_DESC_F_WRITE;
    if (i + 1 < count) descriptor.flags |= VRING_DESC_F_NEXT;
    descriptor.next = static_cast<std::uint16_t>((at + 1) % entries);
    // Rarely, something that no driver writes.
    if ((kind & 0xf0) == 0xf0) {
      descriptor.addr ^= input.get<std::uint64_t>();
      descriptor.len ^= input.get<std::uint32_t>();
      descriptor.flags ^= input.get<std::uint16_t>();
    }
    poke_value(table + at * sizeof descriptor, descriptor);
  }
  if (indirect) {
    const vring_desc reference{kRam + table, static_cast<std::uint32_t>(count * sizeof(vring_desc)),
                               VRING_DESC_F_INDIRECT, 0};
    poke_value(area + head * sizeof reference, reference);
  }
  queue.next_descriptor = static_cast<std::uint16_t>((head + (indirect ? 1 : count)) % queue.size);
  poke_value(area + kAvailable + 4 + queue.available % queue.size * 2ULL, head);
  poke_value(area + kAvailable + 2, ++queue.available);
  if (kicks) write(VIRTIO_MMIO_QUEUE_NOTIFY, index);
}

// Has a new device take the place of this one, which is stopped, with a state from a peer; error
// where it refuses.
Result<> DeviceFuzzer::take_over(std::span<const std::byte> state) {
  auto other = attach();
  const auto before = saved(*other);
  ByteReader reader(state);
  if (auto accepted = other->restore(reader); !accepted) {
    check(saved(*other) == before, "a device that refuses a state keeps its own");
    return accepted;
  }
  const auto read = state.first(state.size() - reader.remaining());
  check(std::ranges::equal(saved(*other), read), "a device saves what it was restored from");
  transport_ = std::move(other);
  return success();
}

// Stops the device and saves it; then it goes on, or another one takes the state over, which a peer
// may have changed.
void DeviceFuzzer::stop_and_move(Input& input) {
  transport_->quiesce();
  auto state = saved(*transport_);
  const unsigned changes = input.below(4);
  if (changes != 3) {
    for (unsigned i = 0; i < changes; ++i) {
      const std::size_t at = input.get<std::uint8_t>() % state.size();
      state[at] = std::byte{input.get<std::uint8_t>()};
    }
    const auto accepted = take_over(state);
    if (!accepted && changes == 0) {
      check(false, "a device takes over what another has saved: " + accepted.error().message());
    }
  }
  transport_->resume();
}

bool DeviceFuzzer::restore(std::span<const std::byte> state) {
  transport_->quiesce();
  const bool accepted = take_over(state).has_value();
  transport_->resume();
  return accepted;
}

void DeviceFuzzer::turn() {
  check(loop_.settle(kTurnsToRest), "the device comes to rest when the guest does");
}

void DeviceFuzzer::check_dirty() {
  const auto ram = memory().regions()[0].bytes;
  for (std::uint64_t page = 0; page < kRamSize / kPageSize; ++page) {
    if (std::memcmp(&ram[page * kPageSize], &guest_view()[page * kPageSize], kPageSize) != 0) {
      check(memory().device_dirty().test(page), "what the device writes is marked dirty");
    }
  }
}

}  // namespace vmm::fuzz
