#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <thread>

#include "base/result.h"
#include "memory/guest_memory.h"
#include "migration/snapshot_reader.h"

namespace vmm::migration {

// Loads a guest's memory while the guest runs: what is touched first, at once, and everything else
// in the order of addresses behind that. A thread of its own does all of it, so that what is given
// back to the host meanwhile (a balloon's pages) cannot come back: it reads of that before it
// installs anything else.
class SnapshotLoader final : public MemoryFiller {
 public:
  // Called on the loader's thread, unless the loader goes before: success when all is loaded. After
  // an error whoever waits for a page goes on waiting until the loader goes, and nothing may run
  // then that could be told wrong bytes.
  using EndHandler = std::function<void(Result<>)>;

  // memory is as new: nothing has touched it. Error (kHost) where its pages cannot be brought when
  // they are touched; load_snapshot() does without.
  [[nodiscard]] static Result<std::unique_ptr<SnapshotLoader>> start(
      std::shared_ptr<const SnapshotReader> reader, const GuestMemory& memory, EndHandler on_end);
  // Nobody may wait for a page any more, or need what it would hold.
  ~SnapshotLoader() override;

 private:
  class Work;

  SnapshotLoader(std::unique_ptr<Work> work, EndHandler on_end);

  std::unique_ptr<Work> work_;  // null when all is loaded
  std::atomic<bool> stop_ = false;
  std::thread thread_;
};

}  // namespace vmm::migration
