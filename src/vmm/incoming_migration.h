#pragma once

#include <memory>
#include <thread>

#include "base/result.h"
#include "migration/destination.h"
#include "vmm/guest_process.h"

namespace vmm {

// Brings a guest whose manifest has been accepted into a process that was started with kIncoming,
// on a thread of its own. A migration that fails ends the process's guest.
class IncomingMigration {
 public:
  // All must outlive it. paused: the guest stays paused when it is here.
  IncomingMigration(GuestProcess& process, migration::Destination& destination, bool paused);
  IncomingMigration(const IncomingMigration&) = delete;
  IncomingMigration& operator=(const IncomingMigration&) = delete;
  // Cancels what is not complete, and waits.
  ~IncomingMigration();

  // Takes the guest in; the event loop must run, or be about to. Error where the guest is gone.
  [[nodiscard]] Result<> start();

 private:
  class LoopGuest;

  GuestProcess& process_;
  migration::Destination& destination_;
  const bool paused_;
  std::unique_ptr<LoopGuest> guest_;
  std::thread thread_;
};

}  // namespace vmm
