#pragma once

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "base/fd.h"
#include "migration_rig.h"

// What has to hold after a migration, however it went, and many of them at once.
namespace vmm::migration {

enum class Expect {
  kAny,    // it runs at one of both
  kStays,  // at the source
  kMoves,  // at the destination
  kLost,   // at neither: the destination's host could not start it when it was its own
};

// Collects what does not hold.
class Violations {
 public:
  void expect(bool holds, std::string what) {
    if (!holds) found_.push_back(std::move(what));
  }
  [[nodiscard]] const std::vector<std::string>& found() const { return found_; }

 private:
  std::vector<std::string> found_;
};

inline bool is_one_line(const std::string& text) {
  return !text.empty() && std::ranges::all_of(text, [](char c) { return c >= ' ' && c <= '~'; });
}

// Nobody holds a lock in a folder of records or has left half of one behind.
inline void expect_tidy(Violations& violations, const std::filesystem::path& folder) {
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    violations.expect(entry.path().extension() != ".tmp", "left behind: " + entry.path().string());
  }
  const auto fd = open_file(folder, O_RDONLY | O_DIRECTORY).value();
  violations.expect(::flock(fd.get(), LOCK_EX | LOCK_NB) == 0, "the records are locked");
}

// Exactly one guest runs, with its disks and its memory whole; both sides know it, their records
// say so, and whoever does not have it has one error to show. Ends the source of the rig.
inline std::vector<std::string> violations_of(MigrationRig& rig, Expect expect) {
  Violations all;
  const bool here = rig.world.source_runs();
  const bool there = rig.world.destination_runs();
  const bool moved = rig.moved->has_value();
  all.expect(!here || !there, "two run");
  all.expect(here || there || expect == Expect::kLost, "none runs");
  all.expect(here == (rig.source->state() == SourceState::kFailed), "the source does not know");
  all.expect(expect == Expect::kAny || (expect == Expect::kStays) == here,
             "the guest is at the wrong side: " + rig.error());
  all.expect(moved != here, "the source says something else: " + rig.error());
  all.expect(rig.received->has_value() == there, "the destination says something else");
  all.expect(rig.world.source_disks() == here, "the source's disks");
  all.expect(rig.world.destination_disks() == !here, "the destination's disks");
  all.expect(moved == (rig.decision() == Outcome::kStarted), "the destination's record");
  const auto record = rig.record();
  all.expect(record ? (*record == (here ? SourceOutcome::kResumed : SourceOutcome::kDone)) : here,
             "the source's record");

  all.expect(rig.source_guest.memory_is_intact(), "memory at the source is not what it was");
  if (moved) {
    const auto memory = rig.destination_guest.ram.slice(kGuestBase, rig.source_guest.ram.size());
    all.expect(same_bytes(rig.source_guest.written, memory.value()), "memory differs");
    all.expect(rig.destination_guest.restored == rig.source_guest.saved, "state differs");
  }

  if (!moved) {
    all.expect(is_one_line(rig.error()) && rig.error().ends_with("; the guest runs on here"),
               "the source's error is not clear: " + rig.error());
  }
  if (!*rig.received) {
    all.expect(is_one_line(rig.received->error().message()),
               "the destination's error is not clear: " + rig.received->error().message());
  }

  rig.source.reset();
  all.expect(!rig.source_guest.log.on, "logging goes on");
  expect_tidy(all, rig.source_folder);
  expect_tidy(all, rig.destination_folder);
  return all.found();
}

// A migration with something that is wrong.
struct Cell {
  std::string name;
  std::function<std::vector<std::string>(const std::string& name)> run;
};

inline std::size_t entries(const char* folder) {
  DIR* const dir = ::opendir(folder);
  std::size_t count = 0;
  while (::readdir(dir) != nullptr) ++count;
  ::closedir(dir);
  return count;
}

// Runs the cells, many at once since most of them wait, and fails for each that breaks a rule, by
// its name. In the end there are as many threads and descriptors as at the beginning.
inline void run_cells(const std::vector<Cell>& cells) {
  constexpr std::size_t kAtOnce = 12;
  // A thread of an earlier test may still be on its way out.
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  const auto threads_before = entries("/proc/self/task");
  const auto files_before = entries("/proc/self/fd");
  std::mutex mutex;
  std::vector<std::string> broken;
  std::atomic<std::size_t> next = 0;
  {
    std::vector<std::jthread> workers;
    for (std::size_t i = 0; i < std::min(kAtOnce, cells.size()); ++i) {
      workers.emplace_back([&] {
        for (std::size_t at = next++; at < cells.size(); at = next++) {
          const auto& cell = cells[at];
          for (const auto& violation : cell.run(cell.name)) {
            const std::lock_guard lock(mutex);
            broken.push_back(cell.name + ": " + violation);
          }
        }
      });
    }
  }
  for (const auto& violation : broken) ADD_FAILURE() << violation;
  // Who has joined a thread may be ahead of its end.
  const auto until = std::chrono::steady_clock::now() + kLong;
  while (entries("/proc/self/task") > threads_before && std::chrono::steady_clock::now() < until) {
    std::this_thread::yield();
  }
  EXPECT_EQ(entries("/proc/self/task"), threads_before) << "threads go on";
  EXPECT_EQ(entries("/proc/self/fd"), files_before) << "descriptors stay open";
}

}  // namespace vmm::migration
