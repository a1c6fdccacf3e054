#include "vmm/restored_guest.h"

#include <boost/asio/post.hpp>

#include <chrono>
#include <utility>

#include "base/log.h"
#include "migration/snapshot_loader.h"

namespace vmm {

using migration::SnapshotLoader;
using migration::SnapshotReader;
using Clock = std::chrono::steady_clock;

Result<> RestoredGuest::start(std::shared_ptr<const SnapshotReader> reader) {
  // The machine may go at any time: memory that nobody uses any more need not be complete.
  TRY(auto* machine, guest_.begin_task("loading its snapshot", [this] {
    boost::asio::post(loop_, [this] { end_task(); });
  }));
  loading_ = true;
  TRY(load(reader, machine->memory()));
  TRY(machine->restore(reader->state()));
  // For the guest no time has passed.
  TRY(machine->advance_counter(std::chrono::nanoseconds(0)));
  guest_.arrive(reader->manifest().paused);
  machine->announce();
  return success();
}

Result<> RestoredGuest::load(const std::shared_ptr<const SnapshotReader>& reader,
                             GuestMemory& memory) {
  // What the loader calls may find this object gone, but not the loop.
  const auto on_end = [this, &loop = loop_, on_damage = on_damage_, begun = Clock::now(),
                       pages = reader->pages()](const Result<>& result) {
    if (!result) {
      on_damage(result.error());
      return;
    }
    const auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - begun);
    log(LogLevel::kInfo, "{} MiB of memory loaded in {} ms", pages * kPageSize >> 20, ms.count());
    boost::asio::post(loop, [this] { end_task(); });
  };
  auto loader = SnapshotLoader::start(reader, memory, on_end);
  if (loader) {
    memory.keep(std::move(loader).value());
    return success();
  }
  log(LogLevel::kWarning, "all memory is loaded before the guest runs: {}",
      loader.error().message());
  TRY(migration::load_snapshot(*reader, memory));
  on_end(success());
  return success();
}

void RestoredGuest::end_task() {
  if (std::exchange(loading_, false)) guest_.end_task();
}

}  // namespace vmm
