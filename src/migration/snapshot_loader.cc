#include "migration/snapshot_loader.h"

#include <bit>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <span>
#include <utility>
#include <vector>

#include "memory/userfault.h"

namespace vmm::migration {
namespace {

// The lowest `count` bits.
std::uint64_t low_bits(std::uint64_t count) {
  return count >= kSnapshotChunkPages ? ~std::uint64_t{0} : (std::uint64_t{1} << count) - 1;
}

}  // namespace

class SnapshotLoader::Work {
 public:
  Work(std::shared_ptr<const SnapshotReader> reader, std::span<std::byte> ram, Userfault userfault)
      : reader_(std::move(reader)),
        ram_(ram),
        userfault_(std::move(userfault)),
        buffer_(kSnapshotChunkBytes) {
    for (const auto& chunk : reader_->index()) wanted_.push_back(chunk.pages);
  }

  // Returns when all is loaded, or soon after stop is set.
  [[nodiscard]] Result<> run(const std::atomic<bool>& stop) {
    std::size_t next = 0;
    while (!stop) {
      TRY(read_events());
      if (!faults_.empty()) {
        const auto fault = faults_.front();
        faults_.pop_front();
        TRY(serve(fault));
      } else if (next < wanted_.size()) {
        TRY(load(next++));
      } else {
        break;
      }
    }
    return success();
  }

 private:
  [[nodiscard]] Result<> read_events() {
    for (;;) {
      TRY(const auto event, userfault_.next());
      if (!event) return success();
      if (const auto* fault = std::get_if<Userfault::Fault>(&*event)) {
        faults_.push_back(*fault);
        continue;
      }
      const auto pages = std::get<Userfault::Removal>(*event).pages;
      const auto first = static_cast<std::uint64_t>(pages.data() - ram_.data()) / kPageSize;
      for (std::uint64_t page = first; page < first + pages.size() / kPageSize; ++page) {
        wanted_[page / kSnapshotChunkPages] &= ~(std::uint64_t{1} << page % kSnapshotChunkPages);
      }
    }
  }

  [[nodiscard]] Result<> serve(const Userfault::Fault& fault) {
    TRY(load(static_cast<std::size_t>(fault.page - ram_.data()) / kSnapshotChunkBytes));
    // Where the page is not in the file, or was given back in the meantime, it is a new one.
    for (;;) {
      TRY(const bool there, userfault_.ensure(fault.page));
      if (there) return success();
      TRY(let_removal_through());
    }
  }

  [[nodiscard]] Result<> load(std::size_t chunk) {
    if (wanted_[chunk] == 0) return success();
    TRY(const auto bytes, reader_->read(chunk, buffer_));
    while (wanted_[chunk] != 0) {
      TRY(install(chunk, bytes));
    }
    return success();
  }

  // Installs the first wanted pages of a chunk; bytes are all of it that is in the file.
  [[nodiscard]] Result<> install(std::size_t chunk, std::span<const std::byte> bytes) {
    const std::uint64_t wanted = wanted_[chunk];
    const auto first = static_cast<std::uint64_t>(std::countr_zero(wanted));
    const auto count = static_cast<std::uint64_t>(std::countr_one(wanted >> first));
    const auto before =
        static_cast<std::uint64_t>(std::popcount(reader_->index()[chunk].pages & low_bits(first)));
    TRY(const auto installed,
        userfault_.copy(ram_.data() + (chunk * kSnapshotChunkPages + first) * kPageSize,
                        bytes.subspan(before * kPageSize, count * kPageSize)));
    wanted_[chunk] &= ~(low_bits(installed / kPageSize) << first);
    if (installed == count * kPageSize) return success();
    return let_removal_through();
  }

  // Nothing can be installed until the thread that gives pages back was told to go on.
  [[nodiscard]] Result<> let_removal_through() {
    TRY(read_events());
    std::this_thread::yield();
    return success();
  }

  const std::shared_ptr<const SnapshotReader> reader_;
  const std::span<std::byte> ram_;
  Userfault userfault_;
  std::vector<std::uint64_t> wanted_;  // pages of each chunk that are still to be installed
  std::deque<Userfault::Fault> faults_;
  std::vector<std::byte> buffer_;
};

Result<std::unique_ptr<SnapshotLoader>> SnapshotLoader::start(
    std::shared_ptr<const SnapshotReader> reader, const GuestMemory& memory, EndHandler on_end) {
  const auto ram = memory.regions()[0].bytes;
  if (ram.size() != reader->manifest().memory) {
    return fail(ErrorKind::kFailed, "a snapshot of {} bytes of memory, and the machine has {}",
                reader->manifest().memory, ram.size());
  }
  if (memory.backing() != Backing::kAnonymous) {
    return fail(ErrorKind::kHost, "huge pages of the pool are not brought one by one");
  }
  TRY(auto userfault, Userfault::open());
  TRY(userfault.watch(ram));
  auto work = std::make_unique<Work>(std::move(reader), ram, std::move(userfault));
  return std::unique_ptr<SnapshotLoader>(new SnapshotLoader(std::move(work), std::move(on_end)));
}

SnapshotLoader::SnapshotLoader(std::unique_ptr<Work> work, EndHandler on_end)
    : work_(std::move(work)), thread_([this, on_end = std::move(on_end)] {
        auto result = work_->run(stop_);
        if (stop_) return;
        // Closes the file and the userfaultfd, which lets go whoever gives pages back right now.
        if (result) work_.reset();
        on_end(std::move(result));
      }) {}

SnapshotLoader::~SnapshotLoader() {
  stop_ = true;
  thread_.join();
}

}  // namespace vmm::migration
