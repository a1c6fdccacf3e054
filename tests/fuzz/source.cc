#include "migration/source.h"

#include <sys/mman.h>

#include "fake_dirty_log.h"
#include "migration_fuzzer.h"

// A whole source: a destination that answers what the input wants on the control connection, the
// data connections, and when it is asked for its decision.
namespace vmm::fuzz {
namespace {

using namespace migration;

constexpr std::uint64_t kPages = kGuestSize / kPageSize;

GuestMemory& memory() {
  static GuestMemory ram = [] {
    auto made = GuestMemory::create(kGuestRam, kGuestSize, Backing::kAnonymous).value();
    const auto bytes = made.regions()[0].bytes;
    for (std::size_t page = 0; page < kPages; page += 7) {
      bytes[page * kPageSize] = static_cast<std::byte>(page | 1);
    }
    return made;
  }();
  return ram;
}

class Guest final : public SourceGuest {
 public:
  [[nodiscard]] GuestMemory& memory() override { return fuzz::memory(); }
  [[nodiscard]] DirtyLog& dirty_log() override { return log; }
  [[nodiscard]] Result<> pause() override {
    check(runs, "a guest is paused that runs");
    runs = false;
    return success();
  }
  [[nodiscard]] Result<> resume() override {
    check(!runs && disks, "a guest that goes on has its disks");
    runs = true;
    return success();
  }
  [[nodiscard]] Result<SavedMachine> save() override {
    check(!runs, "a guest that is saved stands still");
    return SavedMachine{std::vector<std::byte>(3000), std::chrono::steady_clock::now()};
  }
  [[nodiscard]] Result<> release_disks() override {
    check(!runs && disks, "disks are given up once, by a guest that stands still");
    disks = false;
    return success();
  }
  [[nodiscard]] Result<> reacquire_disks() override {
    check(!disks, "disks are taken back that were given up");
    disks = true;
    return success();
  }
  void mark_in_doubt() override { check(!runs, "a guest in doubt stands still"); }
  void throttle(unsigned percent) override {
    check(percent <= kMostThrottle, "it never stands still by that");
  }

  FakeDirtyLog log{kPages};
  bool runs = true;
  bool disks = true;
};

// What the destination has in store.
struct Script {
  explicit Script(Input& input) {
    const auto shape = input.get<std::uint8_t>();
    verify = (shape & 1) != 0;
    operator_resumes = (shape & 2) != 0;
    hardware = (shape & 4) != 0;
    answer_flip = (shape & 8) != 0 ? input.get<std::uint16_t>() : 0;
    refuses_data = (shape & 16) != 0;
    if ((shape & 32) != 0) control_run = input.get<std::uint16_t>();
    query = input.bytes(input.below(32));
    while (!input.empty()) step(input);
  }

  ByteWriter control;
  std::span<const std::byte> query;
  std::uint16_t answer_flip = 0;
  bool verify = false;
  bool operator_resumes = false;
  bool hardware = false;
  bool refuses_data = false;
  std::optional<std::uint64_t> control_run;

 private:
  void put(const Message& message) {
    put_frame(control, static_cast<std::uint32_t>(type_of(message)),
              encode_payload(message).value());
  }
  void step(Input& input) {
    put_messages(input, control, input.below(7), [&] {
      const auto value = input.get<std::uint8_t>();
      switch (value % 5) {
        case 0:
          return put(Accept{{}, static_cast<std::uint16_t>(value / 5 % kMaxDataChannels + 1)});
        case 1:
          return put(RoundAck{value / 5U});
        case 2:
          return put(Rehearsed{input.get<std::uint64_t>()});
        case 3: {
          const TimeMessage time{input.get<std::uint64_t>()};
          for (int i = 0; i < Source::kTimesAsked; ++i) put(time);
          return;
        }
        default:
          return put(Prepared{input.get<std::uint64_t>()});
      }
    });
  }
};

class Opener final : public Connector {
 public:
  Opener(Wire& wire, const Script& script) : wire_(wire), script_(script) {}

  [[nodiscard]] Result<std::unique_ptr<Channel>> connect(
      std::chrono::milliseconds /*timeout*/) override {
    const unsigned number = opened_++;
    auto answer = encode(PreambleAnswer{});
    if (number == 0) {
      answer[(script_.answer_flip & 0xff) % answer.size()] ^=
          static_cast<std::byte>(script_.answer_flip >> 8);
      return open(answer, script_.control.bytes(), true);
    }
    if (!committed) {
      if (script_.refuses_data) answer = encode(PreambleAnswer{1, "no"});
      return open(answer, {}, false);
    }
    // Asked twice, it says what it likes, and is gone then: the operator decides.
    if (asked_++ == 0) return open(answer, script_.query, true);
    in_doubt();
    return fail(ErrorKind::kMigration, "nobody is there");
  }

  // COMMIT may have been sent.
  std::atomic<bool> committed = false;
  std::function<void()> in_doubt;

 private:
  class Opened final : public InputChannel {
   public:
    Opened(Opener& opener, std::vector<std::byte> input, bool closes)
        : InputChannel(opener.wire_, std::move(input), closes), opener_(opener) {}

   protected:
    void written(std::span<const std::byte> bytes) override {
      ByteReader in(bytes);
      const auto type = in.get<std::uint32_t>();
      const auto length = in.get<std::uint32_t>();
      constexpr auto kCommit = static_cast<std::uint32_t>(MessageType::kCommit);
      if (type && length && type.value() == kCommit &&
          length.value() == max_payload(kCommit).value()) {
        opener_.committed = true;
      }
    }

   private:
    Opener& opener_;
  };

  [[nodiscard]] Result<std::unique_ptr<Channel>> open(std::span<const std::byte> answer,
                                                      std::span<const std::byte> rest,
                                                      bool closes) {
    std::vector<std::byte> bytes(answer.begin(), answer.end());
    bytes.insert(bytes.end(), rest.begin(), rest.end());
    return std::unique_ptr<Channel>(std::make_unique<Opened>(*this, std::move(bytes), closes));
  }

  Wire& wire_;
  const Script& script_;
  unsigned opened_ = 0;
  unsigned asked_ = 0;
};

void run(Input& input) {
  const Script script(input);
  Wire wire;
  Records disk;
  Guest guest;
  guest.log.hardware = script.hardware;
  Opener opener(wire, script);
  {
    Source source(guest, opener, disk.records, small_manifest(), "there:4444",
                  {.limits = {.downtime = std::chrono::minutes(10)},
                   .verify = script.verify,
                   .peer_timeout = kPeerTimeout,
                   .control_run = script.control_run});
    opener.in_doubt = [&] {
      check(source.state() == SourceState::kInDoubt, "it asks when it is in doubt");
      check(source.resolve(script.operator_resumes).has_value(), "a doubt can be resolved");
    };
    const auto moved = source.run();
    const auto state = source.state();
    check(state == SourceState::kDone || state == SourceState::kFailed, "a migration has an end");
    check(guest.runs == (state == SourceState::kFailed), "it runs here, or nobody knows it to");
    check(guest.runs == guest.disks, "a guest that runs has its disks");
    check(state != SourceState::kDone || opener.committed, "nobody has it who was not given it");
    if (moved) {
      check(guest.runs == script.control_run.has_value(), "one that has moved is gone");
      check(moved.value().downtime.count() >= 0, "time does not run backwards");
      const auto& parts = moved.value().parts;
      for (const auto part : {parts.send, parts.transfer, parts.restore, parts.resume}) {
        check(part.count() >= 0, "nor any part of it");
      }
    } else {
      check_error(moved.error());
    }
    const auto kept = disk.records.source(small_manifest().id).value();
    check(!kept || (kept->outcome == SourceOutcome::kResumed) == guest.runs,
          "the record says how it ended");
  }
  check(!guest.log.on, "no logging is left on");
}

const Target kTarget{"source", run};

}  // namespace
}  // namespace vmm::fuzz
