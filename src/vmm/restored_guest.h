#pragma once

#include <boost/asio/io_context.hpp>

#include <functional>
#include <memory>

#include "base/result.h"
#include "migration/snapshot_reader.h"
#include "vmm/guest.h"

namespace vmm {

// Brings the guest of a snapshot into a Guest after start_incoming(), and lets it run. Where the
// host can, its memory is loaded while it runs: that is a task of the guest (Guest::begin_task), so
// that it neither moves nor is saved before it is complete. All on the event loop, or before that
// runs.
class RestoredGuest {
 public:
  // Called on a thread of its own where the guest's memory turns out to be damaged while the guest
  // runs. It must not return: vCPUs may wait for that memory, and cannot be made to stop that.
  using DamageHandler = std::function<void(const Error&)>;

  // All must outlive it, and the loop must not run any more once it has gone. The loop goes after
  // the guest.
  RestoredGuest(boost::asio::io_context& loop, Guest& guest, DamageHandler on_damage)
      : loop_(loop), guest_(guest), on_damage_(std::move(on_damage)) {}
  RestoredGuest(const RestoredGuest&) = delete;
  RestoredGuest& operator=(const RestoredGuest&) = delete;

  // Error where the snapshot does not fit the machine, or its memory is damaged and is all loaded
  // first.
  [[nodiscard]] Result<> start(std::shared_ptr<const migration::SnapshotReader> reader);

 private:
  [[nodiscard]] Result<> load(const std::shared_ptr<const migration::SnapshotReader>& reader,
                              GuestMemory& memory);
  void end_task();

  boost::asio::io_context& loop_;
  Guest& guest_;
  const DamageHandler on_damage_;
  bool loading_ = false;
};

}  // namespace vmm
