#include "devices/virtio/queue.h"

#include "fuzz.h"

// A queue on memory that is all input: sizes, rings, descriptors, and changes of them between the
// steps of the device.
namespace vmm::fuzz {
namespace {

using virtio::Chain;
using virtio::Queue;
using virtio::QueueConfig;
using virtio::QueueLimits;
using virtio::QueueProgress;

constexpr std::uint64_t kRam = 0x4000'0000;
constexpr std::uint64_t kRamSize = 0x4000;
constexpr QueueLimits kLimits{.max_size = 64, .max_chain_bytes = 0x3000};

GuestMemory& memory() {
  static GuestMemory ram = GuestMemory::create(kRam, kRamSize, Backing::kAnonymous).value();
  return ram;
}

void check_parts(std::span<const iovec> parts, std::uint64_t bytes) {
  const auto ram = memory().regions()[0].bytes;
  std::uint64_t sum = 0;
  for (const iovec& part : parts) {
    const auto* start = static_cast<const std::byte*>(part.iov_base);
    check(part.iov_len != 0 && start >= ram.data() && part.iov_len <= ram.size() &&
              start <= ram.data() + (ram.size() - part.iov_len),
          "a part of a request is guest memory");
    sum += part.iov_len;
  }
  check(sum == bytes, "a request is as long as its parts");
}

void check_chain(const Chain& chain, const Queue& queue) {
  check_parts(chain.readable(), chain.readable_bytes());
  check_parts(chain.writable(), chain.writable_bytes());
  check(chain.readable().size() + chain.writable().size() <= queue.size(),
        "no request has more parts than the queue descriptors");
  check(chain.readable_bytes() + chain.writable_bytes() <= kLimits.max_chain_bytes,
        "no request is longer than allowed");
}

void run(Input& input) {
  const QueueConfig config{
      .size = static_cast<std::uint16_t>(1U << input.below(8)),
      .ready = true,
      .descriptors = kRam + input.get<std::uint16_t>(),
      .available = kRam + input.get<std::uint16_t>(),
      .used = kRam + input.get<std::uint16_t>(),
  };
  const bool event_index = input.below(2) != 0;
  const auto index = input.get<std::uint16_t>();
  auto made = Queue::create(memory(), config, kLimits, event_index, {index, index, index});
  if (!made) return;
  Queue queue = std::move(made).value();
  const auto ram = memory().regions()[0].bytes;
  std::memset(ram.data(), 0, ram.size());
  memory().device_dirty().clear();

  // Requests that the device has, oldest first, and how many of them it could still put back.
  std::vector<Chain> taken;
  std::uint16_t undoable = 0;
  while (!input.empty()) {
    const QueueProgress before = queue.progress();
    switch (input.below(9)) {
      case 0:
      case 1: {  // the guest writes
        const std::size_t at = input.get<std::uint16_t>() % ram.size();
        const auto bytes = input.bytes(input.get<std::uint8_t>());
        std::ranges::copy(bytes.first(std::min(bytes.size(), ram.size() - at)), &ram[at]);
        break;
      }
      case 2: {  // the guest makes some requests available
        std::uint16_t available{};
        std::memcpy(&available, &ram[config.available - kRam + 2], sizeof available);
        available = static_cast<std::uint16_t>(available + input.get<std::uint8_t>());
        std::memcpy(&ram[config.available - kRam + 2], &available, sizeof available);
        break;
      }
      case 3: {
        Chain chain;
        const auto popped = queue.pop(chain);
        if (!popped || !popped.value()) {
          check(queue.progress() == before, "nothing was taken where pop() says so");
          break;
        }
        check_chain(chain, queue);
        taken.push_back(std::move(chain));
        ++undoable;
        break;
      }
      case 4:
        if (undoable == 0) break;
        queue.undo_pop();
        taken.pop_back();
        --undoable;
        break;
      case 5: {
        if (taken.empty()) break;
        const auto which =
            taken.begin() + static_cast<std::ptrdiff_t>(input.get<std::uint8_t>() % taken.size());
        queue.push(*which, input.get<std::uint32_t>());
        taken.erase(which);
        undoable = 0;
        break;
      }
      case 6:
        (void)queue.publish();
        check(queue.progress().published == queue.progress().next_used, "publish() shows all");
        break;
      case 7:
        queue.disable_kicks();
        break;
      default:
        (void)queue.enable_kicks();
        break;
    }
    const QueueProgress& now = queue.progress();
    check(static_cast<std::uint16_t>(now.next_available - now.published) <= queue.size(),
          "no more requests are out than the queue holds");
    check(static_cast<std::uint16_t>(now.next_available - now.next_used) == taken.size(),
          "the queue knows how many requests the device has");
    check(Queue::create(memory(), config, kLimits, event_index, now).has_value(),
          "a queue can go on from where it is");
  }
}

const Target kTarget{"queue", run};

}  // namespace
}  // namespace vmm::fuzz
