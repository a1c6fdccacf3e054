#include "devices/virtio/blk.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <deque>
#include <string>

#include "device_fuzzer.h"

// The disk, on an image in memory, with an engine that takes its time and fails now and then.
namespace vmm::fuzz {
namespace {

constexpr std::uint64_t kImageSize = 64 * 1024;

class Engine;

// What engines do about the calls that they are given.
struct Mood {
  std::vector<Engine*> engines;  // that there are, that of the device that runs first
  bool holds = false;            // calls stay under way until end_one()
  int error = 0;                 // of the next call, or 0
  bool comes_short = false;
};

class Engine final : public IoEngine {
 public:
  explicit Engine(Mood& mood) : mood_(mood), ready_(make_eventfd().value()) {
    mood_.engines.push_back(this);
  }
  ~Engine() override { std::erase(mood_.engines, this); }

  void add(IoCall& call) override { started_.push_back(&call); }
  void submit() override {
    while (!mood_.holds && !started_.empty()) end_one(0);
  }
  std::size_t reap(std::span<IoCall*> done) override {
    std::uint64_t count = 0;
    (void)!::read(ready_.get(), &count, sizeof count);
    std::size_t taken = 0;
    for (; taken < done.size() && !done_.empty(); done_.pop_front()) done[taken++] = done_.front();
    if (!done_.empty()) signal_eventfd(ready_);
    return taken;
  }
  void wait() override {
    check(!done_.empty() || !started_.empty(), "something is under way that is waited for");
    if (done_.empty()) end_one(0);
  }
  [[nodiscard]] const Fd& ready_fd() const override { return ready_; }

  // Carries out one of the calls under way.
  void end_one(std::size_t which) {
    if (started_.empty()) return;
    const auto at = started_.begin() + static_cast<std::ptrdiff_t>(which % started_.size());
    IoCall& call = **at;
    started_.erase(at);
    call.result = make(call);
    done_.push_back(&call);
    signal_eventfd(ready_);
  }

 private:
  std::int32_t make(const IoCall& call) {
    if (const int error = std::exchange(mood_.error, 0); error != 0) return -error;
    const auto offset = static_cast<off_t>(call.offset);
    auto buffers = call.buffers;
    if (std::exchange(mood_.comes_short, false) && buffers.size() > 1) {
      buffers = buffers.first(buffers.size() / 2);
    }
    const auto count = static_cast<int>(buffers.size());
    ssize_t result = 0;
    switch (call.kind) {
      case IoCall::Kind::kRead:
        result = ::preadv(call.fd, buffers.data(), count, offset);
        break;
      case IoCall::Kind::kWrite:
        result = ::pwritev(call.fd, buffers.data(), count, offset);
        break;
      case IoCall::Kind::kDataSync:
        break;
      case IoCall::Kind::kAllocate:
        result = ::fallocate(call.fd, call.flags, offset, static_cast<off_t>(call.length));
        break;
    }
    return static_cast<std::int32_t>(result < 0 ? -errno : result);
  }

  Mood& mood_;
  Fd ready_;
  std::vector<IoCall*> started_;
  std::deque<IoCall*> done_;
};

struct Disk {
  explicit Disk(bool read_only) : file(::memfd_create("fuzz-image", MFD_CLOEXEC)) {
    check(file.valid() && ::ftruncate(file.get(), kImageSize) == 0, "there is memory for an image");
    const auto path = "/proc/self/fd/" + std::to_string(file.get());
    image = DiskImage::open({.path = path, .read_only = read_only}).value();
  }
  // As if nobody had written to it.
  void clear() const {
    check(::ftruncate(file.get(), 0) == 0 && ::ftruncate(file.get(), kImageSize) == 0,
          "an image is cleared");
  }

  Fd file;
  std::unique_ptr<DiskImage> image;
};

int one_of_the_errors(Input& events) {
  constexpr std::array kErrors{EIO, ENOSPC, EINTR, EAGAIN, EINVAL, EOPNOTSUPP};
  return kErrors[events.below(kErrors.size())];
}

void run(Input& input) {
  static const Disk writable(false);
  static const Disk read_only(true);
  const Disk& disk = input.below(4) == 0 ? read_only : writable;
  disk.clear();
  Mood mood;
  DeviceFuzzer fuzzer(
      [&](GuestMemory& memory, EventLoop& loop) {
        return virtio::Blk::create({.name = "disk", .serial = "fuzz"}, *disk.image,
                                   std::make_unique<Engine>(mood), memory, loop)
            .value();
      },
      [&](virtio::VirtioDevice& device, Input& events) {
        switch (events.below(5)) {
          case 0:
            mood.error = one_of_the_errors(events);
            return;
          case 1:
            mood.holds = !mood.holds;
            return;
          case 2:
            mood.comes_short = true;
            return;
          default:
            (void)device.counters();
            return mood.engines.front()->end_one(events.get<std::uint8_t>());
        }
      });
  fuzzer.run(input);
}

const Target kTarget{"blk", run};

}  // namespace
}  // namespace vmm::fuzz
