#include "vmm/incoming_migration.h"

#include <boost/asio/post.hpp>

#include "base/log.h"
#include "vmm/loop_call.h"

namespace vmm {

// The machine as the migration's thread sees it: what it asks for happens on the event loop.
class IncomingMigration::LoopGuest final : public migration::DestinationGuest {
 public:
  LoopGuest(GuestProcess& process, MovableMachine& machine, bool paused)
      : process_(process), machine_(machine), paused_(paused) {}

  GuestMemory& memory() override { return machine_.memory(); }
  Result<> restore(std::span<const std::byte> state) override {
    return call_on(process_.loop(), [this, state] { return machine_.restore(state); });
  }
  Result<> acquire_disks() override {
    return call_on(process_.loop(), [this] { return process_.resources().reacquire_disks(); });
  }
  Result<> release_disks() override {
    return call_on(process_.loop(), [this] { return process_.resources().release_disks(); });
  }
  Result<> start(std::chrono::steady_clock::time_point saved_at) override {
    return call_on(process_.loop(), [this, saved_at]() -> Result<> {
      TRY(machine_.advance_counter(std::chrono::steady_clock::now() - saved_at));
      process_.guest().arrive(paused_);
      machine_.announce();
      // From here on it is a guest like any other.
      process_.set_on_signal({});
      process_.guest().end_task();
      return success();
    });
  }

 private:
  GuestProcess& process_;
  MovableMachine& machine_;
  const bool paused_;
};

IncomingMigration::IncomingMigration(GuestProcess& process, migration::Destination& destination,
                                     bool paused)
    : process_(process), destination_(destination), paused_(paused) {}

IncomingMigration::~IncomingMigration() {
  destination_.cancel();
  if (thread_.joinable()) thread_.join();
}

Result<> IncomingMigration::start() {
  TRY(auto* machine, process_.guest().begin_task("its arrival", [this] { destination_.cancel(); }));
  guest_ = std::make_unique<LoopGuest>(process_, *machine, paused_);
  process_.set_on_signal([this] { destination_.cancel(); });
  thread_ = std::thread([this] {
    auto result = destination_.receive(*guest_);
    if (result) return;
    boost::asio::post(process_.loop(), [this, error = std::move(result).error()] {
      // Its machine is not needed any more, whatever had been asked to wait for that.
      process_.guest().end_task();
      static_cast<void>(process_.guest().kill(error));
    });
  });
  return success();
}

}  // namespace vmm
