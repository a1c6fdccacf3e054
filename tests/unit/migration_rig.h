#pragma once

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "channel_fakes.h"
#include "fake_dirty_log.h"
#include "faulty_channel.h"
#include "migration/destination.h"
#include "migration/source.h"
#include "migration_manifest_support.h"
#include "vmm_support.h"

// Both ends of a migration in one process, over loopback, with guests that notice when a rule of
// the hand-over is broken.
namespace vmm::migration {

inline constexpr std::uint64_t kGuestBase = 0x4000'0000;
inline constexpr std::uint64_t kGuestPages = 4 * kChunkPages;
inline constexpr std::size_t kStateBytes = 5000;  // all the same

// All of memory, often, in programs that are not optimised.
inline bool same_bytes(std::span<const std::byte> a, std::span<const std::byte> b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size()) == 0;
}

// Where the guest runs and who holds its disks, as the world outside sees it, and what the engines
// ask of the guests.
class GuestWorld {
 public:
  // Notes a call, such as "source pause"; the error that a test wants of it.
  [[nodiscard]] Result<> call(const std::string& name) {
    std::string key;
    {
      const std::lock_guard lock(mutex_);
      key = fmt::format("{} {}", name, ++counts_[name]);
    }
    if (on_call) on_call(key);
    if (key != failing) return success();
    return fail(ErrorKind::kFailed, "{} does not work", key);
  }
  [[nodiscard]] int calls(const std::string& name) {
    const std::lock_guard lock(mutex_);
    return counts_[name];
  }

  void run_at_source(bool runs) {
    const std::lock_guard lock(mutex_);
    source_runs_ = runs;
    if (!runs) return;
    expect(!destination_runs_, "two run");
    expect(source_disks_, "the source's runs without disks");
  }
  void run_at_destination() {
    const std::lock_guard lock(mutex_);
    destination_runs_ = true;
    expect(!source_runs_, "two run");
    expect(destination_disks_, "the destination's runs without disks");
  }
  // As locks do it: who is second does not get them.
  [[nodiscard]] Result<> take_disks(bool at_source) {
    const std::lock_guard lock(mutex_);
    expect(!(at_source ? destination_disks_ : source_disks_), "the other side has the disks");
    (at_source ? source_disks_ : destination_disks_) = true;
    return success();
  }
  void drop_disks(bool at_source) {
    const std::lock_guard lock(mutex_);
    expect(!at_source || !source_runs_, "a running guest loses its disks");
    (at_source ? source_disks_ : destination_disks_) = false;
  }
  [[nodiscard]] bool source_runs() {
    const std::lock_guard lock(mutex_);
    return source_runs_;
  }
  [[nodiscard]] bool destination_runs() {
    const std::lock_guard lock(mutex_);
    return destination_runs_;
  }
  [[nodiscard]] bool source_disks() {
    const std::lock_guard lock(mutex_);
    return source_disks_;
  }
  [[nodiscard]] bool destination_disks() {
    const std::lock_guard lock(mutex_);
    return destination_disks_;
  }

  // A rule of the hand-over, which `what` breaks where it does not hold. Threads: any.
  void expect(bool holds, const char* what) const {
    if (!holds) ADD_FAILURE() << label << what;
  }

  std::string label;    // of the migration, in what fails
  std::string failing;  // a call and which one of its kind: "source pause 2"
  std::function<void(const std::string& call)> on_call;

 private:
  std::mutex mutex_;
  std::map<std::string, int> counts_;
  bool source_runs_ = true;
  bool destination_runs_ = false;
  bool source_disks_ = true;
  bool destination_disks_ = false;
};

// As a vCPU does it, which ThreadSanitizer does not see either.
__attribute__((no_sanitize("thread"))) inline void guest_store(std::byte* at, std::uint64_t value) {
  *reinterpret_cast<volatile std::uint64_t*>(at) = value;
}

// A guest that writes to its memory between all operations of the log while it runs.
class FakeSourceGuest final : public SourceGuest {
 public:
  explicit FakeSourceGuest(GuestWorld& world) : world_(world) {
    ::madvise(bytes.data(), bytes.size(), MADV_NOHUGEPAGE);
    for (std::uint64_t page = 0; page < kGuestPages; page += 3) write(page);
    log.between = [this] {
      if (world_.source_runs()) step();
    };
  }

  [[nodiscard]] GuestMemory& memory() override { return ram; }
  [[nodiscard]] DirtyLog& dirty_log() override { return log; }
  [[nodiscard]] Result<> pause() override {
    TRY(world_.call("source pause"));
    world_.run_at_source(false);
    at_pause = contents();
    return success();
  }
  [[nodiscard]] Result<> resume() override {
    TRY(world_.call("source resume"));
    world_.expect(same_bytes(at_pause, bytes), "memory was touched while the guest stood still");
    world_.run_at_source(true);
    // Looking at all of memory has given this one some, and the next round is to have a hole.
    if (given_back_) give_back(*given_back_);
    return success();
  }
  void throttle(unsigned percent) override {
    static_cast<void>(world_.call("source throttle"));
    throttled = percent;
    most_throttled = std::max(most_throttled, percent);
  }
  [[nodiscard]] Result<SavedMachine> save() override {
    TRY(world_.call("source save"));
    world_.expect(!world_.source_runs(), "a guest that runs is saved");
    saved.assign(kStateBytes, static_cast<std::byte>(world_.calls("source save")));
    return SavedMachine{saved, std::chrono::steady_clock::now()};
  }
  [[nodiscard]] Result<> release_disks() override {
    TRY(world_.call("source release"));
    world_.drop_disks(true);
    return success();
  }
  [[nodiscard]] Result<> reacquire_disks() override {
    TRY(world_.call("source reacquire"));
    return world_.take_disks(true);
  }
  void mark_in_doubt() override { static_cast<void>(world_.call("source doubt")); }

  [[nodiscard]] std::vector<std::byte> contents() const { return {bytes.begin(), bytes.end()}; }
  // Memory is what the guest has made of it.
  [[nodiscard]] bool memory_is_intact() const { return same_bytes(written, bytes); }

  GuestMemory ram =
      GuestMemory::create(kGuestBase, kGuestPages* kPageSize, Backing::kAnonymous).value();
  std::span<std::byte> bytes = ram.slice(kGuestBase, ram.size()).value();
  FakeDirtyLog log{kGuestPages};
  std::atomic<unsigned> throttled = 0;  // percent
  unsigned most_throttled = 0;
  std::vector<std::byte> saved;
  std::vector<std::byte> at_pause;
  std::vector<std::byte> written = std::vector<std::byte>(bytes.size());  // what the guest knows

 private:
  void store(std::uint64_t at, std::uint64_t value) {
    guest_store(bytes.data() + at, value);
    std::memcpy(written.data() + at, &value, sizeof value);
  }
  void write(std::uint64_t page) {
    store(page * kPageSize + 8 * (page % 512), ++value_);
    log.write(page);
  }
  void give_back(std::uint64_t page) {
    EXPECT_TRUE(ram.discard(kGuestBase + page * kPageSize, kPageSize));
    std::memset(written.data() + page * kPageSize, 0, kPageSize);
    given_back_ = page;
  }
  // One of what guests do: mostly vCPUs that write, a device, a balloon. The balloon comes right
  // behind the first clear, and zeros come before the first harvest, so that the second round has
  // them.
  void step() {
    const std::uint64_t page = value_ * 769 % kGuestPages;
    switch (++steps_ % 6) {
      case 0:
        store(page * kPageSize, ++value_);
        ram.mark_dirty(kGuestBase + page * kPageSize, kPageSize);
        return;
      case 3:
        give_back(page);
        ++value_;
        return;
      case 4:  // all that was ever written to it
        store(page * kPageSize, 0);
        store(page * kPageSize + 8 * (page % 512), 0);
        log.write(page);
        ++value_;
        return;
      default:
        write(page);
    }
  }

  GuestWorld& world_;
  std::uint64_t value_ = 0;
  std::uint64_t steps_ = 0;
  std::optional<std::uint64_t> given_back_;  // last
};

class FakeDestinationGuest final : public DestinationGuest {
 public:
  explicit FakeDestinationGuest(GuestWorld& world) : world_(world) {}

  [[nodiscard]] GuestMemory& memory() override { return ram; }
  [[nodiscard]] Result<> restore(std::span<const std::byte> state) override {
    TRY(world_.call("destination restore"));
    world_.expect(!world_.destination_runs(), "a guest that runs is restored");
    if (state.size() != kStateBytes ||
        std::ranges::adjacent_find(state, std::not_equal_to<>()) != state.end()) {
      return fail(ErrorKind::kFailed, "the machine's state is damaged");
    }
    restored.assign(state.begin(), state.end());
    return success();
  }
  [[nodiscard]] Result<> acquire_disks() override {
    TRY(world_.call("destination acquire"));
    return world_.take_disks(false);
  }
  [[nodiscard]] Result<> release_disks() override {
    TRY(world_.call("destination release"));
    world_.expect(!world_.destination_runs(), "a guest that runs loses its disks");
    world_.drop_disks(false);
    return success();
  }
  [[nodiscard]] Result<> start(std::chrono::steady_clock::time_point when) override {
    TRY(world_.call("destination start"));
    saved_at = when;
    world_.expect(saved_at < std::chrono::steady_clock::now(), "the guest's counters go back");
    world_.run_at_destination();
    return success();
  }

  GuestMemory ram =
      GuestMemory::create(kGuestBase, kGuestPages* kPageSize, Backing::kAnonymous).value();
  std::vector<std::byte> restored;
  std::chrono::steady_clock::time_point saved_at;

 private:
  GuestWorld& world_;
};

// One migration. What a test wants to be different is set before run().
class MigrationRig {
 public:
  explicit MigrationRig(std::vector<FaultPlan::At> faults = {},
                        std::chrono::milliseconds timeout = kLong)
      : plan(std::move(faults)) {
    manifest = full_manifest();
    manifest.memory = kGuestPages * kPageSize;
    manifest.channels = 2;
    options.peer_timeout = timeout;
    options.limits.downtime = std::chrono::minutes(10);
    plan.on_cancel = [this](bool at_source) {
      if (at_source) {
        static_cast<void>(source->cancel());
      } else {
        destination->cancel();
      }
    };
    destination.emplace(acceptor_, destination_records, timeout);
  }
  MigrationRig(const MigrationRig&) = delete;
  MigrationRig& operator=(const MigrationRig&) = delete;
  ~MigrationRig() {
    destination->cancel();
    if (destination_thread_.joinable()) destination_thread_.join();
    if (source_thread_.joinable()) source_thread_.join();
  }

  // Starts both sides. The destination refuses with `refusal`, if there is one.
  void start() {
    source.emplace(source_guest, connector, source_records, manifest, "there:4444", options);
    destination_thread_ = std::thread([this] { received_.set_value(receive()); });
    source_thread_ = std::thread([this] { moved_.set_value(source->run()); });
  }
  void run() {
    start();
    wait();
  }
  // Until the source has ended; and the destination, which is told to where no source has come.
  void wait() {
    moved = moved_.get_future().get();
    source_thread_.join();
    if (source->state() == SourceState::kFailed && !destination_accepted_) destination->cancel();
    received = received_.get_future().get();
    destination_thread_.join();
  }
  void wait_for_state(SourceState state) {
    while (source->state() != state) std::this_thread::yield();
  }

  [[nodiscard]] std::string error() const { return *moved ? "" : moved->error().message(); }

  // The guest has arrived whole, and nothing of it runs here.
  void expect_arrived() {
    ASSERT_TRUE(*moved) << error();
    EXPECT_TRUE(*received);
    EXPECT_EQ(moved->value().result, "migrated");
    EXPECT_EQ(source->state(), SourceState::kDone);
    EXPECT_TRUE(world.destination_runs());
    EXPECT_FALSE(world.source_runs());
    EXPECT_TRUE(world.destination_disks());
    EXPECT_FALSE(world.source_disks());
    EXPECT_EQ(source_guest.throttled, 0U);
    EXPECT_TRUE(same_bytes(source_guest.at_pause, source_guest.bytes));
    const auto there = destination_guest.ram.slice(kGuestBase, destination_guest.ram.size());
    EXPECT_TRUE(same_bytes(source_guest.at_pause, there.value())) << "memory differs";
    EXPECT_EQ(destination_guest.restored, source_guest.saved);
    EXPECT_EQ(record(), SourceOutcome::kDone);
    EXPECT_EQ(decision(), Outcome::kStarted);
  }
  // The guest goes on here as if nothing had happened, and never runs there.
  void expect_stayed(ErrorKind kind = ErrorKind::kMigration) {
    ASSERT_FALSE(*moved);
    EXPECT_EQ(moved->error().kind(), kind) << error();
    EXPECT_FALSE(*received);
    EXPECT_EQ(source->state(), SourceState::kFailed);
    EXPECT_TRUE(world.source_runs());
    EXPECT_FALSE(world.destination_runs());
    EXPECT_TRUE(world.source_disks());
    EXPECT_FALSE(world.destination_disks());
    EXPECT_FALSE(source_guest.log.on) << "logging costs the guest";
    EXPECT_EQ(source_guest.throttled, 0U);
    EXPECT_NE(decision(), Outcome::kStarted);
    const auto kept = record();
    EXPECT_TRUE(!kept || kept == SourceOutcome::kResumed) << to_string(*kept);
  }

  [[nodiscard]] std::optional<SourceOutcome> record() {
    const auto kept = source_records.source(manifest.id).value();
    return kept ? std::optional(kept->outcome) : std::nullopt;
  }
  [[nodiscard]] std::optional<Outcome> decision() {
    const auto decided = destination_records.lookup(manifest.id);
    if (!decided || !decided.value()) return std::nullopt;
    return decided.value()->outcome;
  }
  [[nodiscard]] const TcpAddress& address() const { return listener_.address(); }

 private:
  TempDir folder_;
  TcpListener listener_ = TcpListener::listen({"127.0.0.1", 0}).value();
  TcpAcceptor acceptor_{listener_};

  [[nodiscard]] Result<> receive() {
    TRY(const auto arrived, destination->await_manifest());
    EXPECT_EQ(arrived, manifest);
    destination_accepted_ = true;
    if (refusal) {
      destination->refuse(*refusal);
      return fail(*refusal);
    }
    return destination->receive(destination_guest);
  }

 public:
  FaultPlan plan;
  FaultyConnector connector{listener_.address(), plan};
  GuestWorld world;
  FakeSourceGuest source_guest{world};
  FakeDestinationGuest destination_guest{world};
  std::filesystem::path source_folder = folder_ / "source";
  std::filesystem::path destination_folder = folder_ / "destination";
  DecisionRecords source_records = DecisionRecords::open(source_folder).value();
  DecisionRecords destination_records = DecisionRecords::open(destination_folder).value();
  Manifest manifest;
  SourceOptions options;
  std::optional<Error> refusal;
  std::optional<Destination> destination;
  std::optional<Source> source;
  // How they ended.
  std::optional<Result<MigrationReport>> moved;
  std::optional<Result<>> received;

 private:
  std::atomic<bool> destination_accepted_ = false;
  std::promise<Result<MigrationReport>> moved_;
  std::promise<Result<>> received_;
  std::thread destination_thread_;
  std::thread source_thread_;
};

}  // namespace vmm::migration
