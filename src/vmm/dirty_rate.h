#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/json/object.hpp>

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "base/result.h"
#include "memory/dirty_log.h"
#include "memory/dirty_tracker.h"
#include "vmm/control_server.h"
#include "vmm/guest.h"
#include "vmm/outgoing_migration.h"

namespace vmm {

// How fast a guest writes to its memory, measured by logging its writes for a short while.
struct DirtyRateOptions {
  std::chrono::milliseconds period{1000};   // 1 ms to an hour
  std::chrono::milliseconds interval{100};  // between two looks at the log; at most the period
  std::optional<DirtyLogMode> mode;         // hardware where the host has it
};

// What has been measured so far.
struct DirtyRate {
  DirtyLogMode mode = DirtyLogMode::kWriteProtect;
  std::vector<std::uint64_t> intervals;  // pages written in each, counted once each
  std::chrono::system_clock::time_point begun;
  std::chrono::nanoseconds measured{0};  // the intervals together
  std::uint64_t unique_pages = 0;        // written in any of them
};

// Error (kUsage) for a period of zero or beyond an hour, or an interval of zero or beyond the
// period.
[[nodiscard]] Result<> check(const DirtyRateOptions& options);

// Measures on a thread of its own, from its construction on. Logging is off again when it has
// ended, however that came.
class DirtyRateSampler {
 public:
  // log and memory must outlive the sampler; on_end is called on its thread.
  DirtyRateSampler(DirtyLog& log, GuestMemory& memory, const DirtyRateOptions& options,
                   std::function<void()> on_end);
  DirtyRateSampler(const DirtyRateSampler&) = delete;
  DirtyRateSampler& operator=(const DirtyRateSampler&) = delete;
  // Ends it, and waits for that.
  ~DirtyRateSampler();

  // What is known now, or why nothing could be measured. Threads: any.
  [[nodiscard]] Result<DirtyRate> result() const;
  // Asks it to end early. Threads: any.
  void stop();
  // Ends it, waits for that, and returns what it has found. Threads: the owner's.
  [[nodiscard]] Result<DirtyRate> finish();
  // Somebody still waits for the result. Without that it ends after a few seconds.
  void keep_alive();

 private:
  [[nodiscard]] Result<> measure();
  // Waits for the next look; false where it is to end instead.
  [[nodiscard]] bool wait_until(std::chrono::steady_clock::time_point time);

  DirtyTracker tracker_;
  DirtyLog& log_;
  const DirtyRateOptions options_;
  const std::function<void()> on_end_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  bool stop_ = false;                                   // under mutex_
  std::chrono::steady_clock::time_point wanted_until_;  // under mutex_
  DirtyRate rate_;                                      // under mutex_
  std::optional<Error> error_;                          // under mutex_
  std::thread thread_;
};

// The control methods dirty_rate.start, dirty_rate.get and dirty_rate.stop
// (docs/control-protocol.md). One measurement at a time; a migration that starts ends it, and while
// a migration is active they answer with its progress instead. All on the event loop.
class DirtyRateMeter {
 public:
  // All must outlive it; the loop must not run any more once it has gone.
  DirtyRateMeter(boost::asio::io_context& loop, Guest& guest, OutgoingMigration& migration);
  ~DirtyRateMeter();

  void add_methods(ControlServer& server);

 private:
  [[nodiscard]] Result<boost::json::value> start(const boost::json::object& params);
  [[nodiscard]] Result<boost::json::value> get();
  // Ends the measurement there is and waits for that; what it has found stays.
  void stop();

  boost::asio::io_context& loop_;
  Guest& guest_;
  OutgoingMigration& migration_;
  DirtyRateOptions options_;
  std::unique_ptr<DirtyRateSampler> sampler_;
  std::uint64_t generation_ = 0;  // tells the end of this sampler from a late one of another
  std::optional<Result<DirtyRate>> last_;
};

}  // namespace vmm
