#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <thread>
#include <vector>

#include "base/result.h"
#include "base/thread_annotations.h"
#include "memory/dirty_bitmap.h"
#include "memory/guest_memory.h"
#include "migration/channel.h"
#include "migration/ram_record.h"

namespace vmm::migration {

// Receives guest memory from data channels, a thread each, straight to where it belongs. The memory
// is fresh, and nothing else writes to it. Rounds are numbered from 1; a channel that has reached
// the end of a round waits for the others, so that a page is never overwritten by an older one.
//
// What the peer sends is checked before anything is done with it: nothing outside RAM is touched.
// That a peer is silent is no error here, since channels rest between rounds: the control link
// notices, and interrupts.
class RamReceiver {
 public:
  struct Events {
    // All of a round has arrived. Called on a thread of the receiver while all channels wait.
    std::function<void(std::uint32_t round)> round_complete;
    // Receiving has failed. Called once, on a thread of the receiver, before finish().
    std::function<void(const Error& error)> failed;
  };

  // Starts receiving, at least one channel. The memory outlives the receiver.
  RamReceiver(GuestMemory& memory, std::vector<std::unique_ptr<Channel>> channels, Events events);
  RamReceiver(const RamReceiver&) = delete;
  RamReceiver& operator=(const RamReceiver&) = delete;
  ~RamReceiver();

  // Ends receiving, from any thread: the channels fail, and Events::failed is called.
  void interrupt();
  // Ends receiving after the last round, or gives the error (kMigration, or kHost where memory
  // cannot be given back) that ended it before. Once it returns no thread touches the memory. Not
  // called from Events.
  [[nodiscard]] Result<> finish();

  // Pages that have come with contents; page 0 is the start of RAM.
  [[nodiscard]] const DirtyBitmap& received() const { return received_; }
  // Bytes of contents received so far.
  [[nodiscard]] std::uint64_t bytes() const { return bytes_; }

 private:
  void work(Channel& channel);
  [[nodiscard]] Result<> receive_records(Channel& channel);
  [[nodiscard]] Result<> make_zero(PageRange range, bool give_back);
  [[nodiscard]] Result<> end_round(std::uint32_t round, const Channel& channel)
      VMM_EXCLUDES(mutex_);
  // Returns whether this was the first error, and nobody has called finish() yet.
  bool fail_all(Error error) VMM_EXCLUDES(mutex_);
  void stop() VMM_EXCLUDES(mutex_);

  GuestMemory& memory_;
  const Events events_;
  DirtyBitmap received_;
  std::atomic<std::uint64_t> bytes_ = 0;

  Mutex mutex_;
  std::condition_variable_any changed_;
  std::uint32_t round_ VMM_GUARDED_BY(mutex_) = 1;  // the one under way
  std::size_t arrived_ VMM_GUARDED_BY(mutex_) = 0;  // channels at its end
  bool stopped_ VMM_GUARDED_BY(mutex_) = false;
  std::optional<Error> error_ VMM_GUARDED_BY(mutex_);

  const std::vector<std::unique_ptr<Channel>> channels_;
  std::vector<std::thread> threads_;
};

}  // namespace vmm::migration
