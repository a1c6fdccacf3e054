#include "migration/destination.h"

#include <sys/mman.h>

#include "migration_fuzzer.h"

// A whole destination: a source that says what the input wants on its control connection, its data
// connections, and on one that asks for a decision.
namespace vmm::fuzz {
namespace {

using namespace migration;

GuestMemory& memory() {
  static GuestMemory ram = GuestMemory::create(kGuestRam, kGuestSize, Backing::kAnonymous).value();
  return ram;
}

class Guest final : public DestinationGuest {
 public:
  Guest() {
    const auto ram = memory().regions()[0].bytes;
    ::madvise(ram.data(), ram.size(), MADV_DONTNEED);
  }
  [[nodiscard]] GuestMemory& memory() override { return fuzz::memory(); }
  [[nodiscard]] Result<> restore(std::span<const std::byte> state) override {
    check(!started, "a guest that runs is not restored");
    restored = true;
    // As real ones do, it does not take everything.
    if (!state.empty() && state[0] == std::byte{0xff}) return fail(ErrorKind::kFailed, "no state");
    return success();
  }
  [[nodiscard]] Result<> acquire_disks() override {
    check(restored && !disks, "disks are taken once, for a guest that is there");
    disks = true;
    return success();
  }
  [[nodiscard]] Result<> release_disks() override {
    check(!started, "a guest that runs keeps its disks");
    disks = false;
    return success();
  }
  [[nodiscard]] Result<> start(std::chrono::steady_clock::time_point saved_at) override {
    const auto since_save = std::chrono::steady_clock::now() - saved_at;
    check(disks && !started, "a guest starts once, with its disks");
    check(since_save.count() >= 0 && since_save < 2 * kMaxSinceSave, "time goes on, and not far");
    started = true;
    return success();
  }

  bool restored = false;
  bool disks = false;
  bool started = false;
};

// What the source has in store.
struct Script {
  explicit Script(Input& input) {
    const auto shape = input.get<std::uint8_t>();
    asks = (shape & 1) != 0;
    // Some bytes of a preamble are not as they should be.
    control_flip = (shape & 2) != 0 ? input.get<std::uint16_t>() : 0;
    data_flip = (shape & 4) != 0 ? input.get<std::uint16_t>() : 0;
    while (!input.empty() && control.bytes().size() + data_bytes() < (std::size_t{4} << 20)) {
      step(input);
    }
  }

  ByteWriter control;
  std::array<ByteWriter, 2> data;
  std::uint16_t control_flip = 0;
  std::uint16_t data_flip = 0;
  bool asks = false;

 private:
  [[nodiscard]] std::size_t data_bytes() const {
    return data[0].bytes().size() + data[1].bytes().size();
  }
  void step(Input& input) {
    const unsigned kind = input.below(8);
    if (kind < 5) {
      put_messages(input, control, std::min(kind, 3U), [&] {
        put_frame(control, static_cast<std::uint32_t>(MessageType::kManifest),
                  encode(small_manifest()).value());
      });
      return;
    }
    auto& out = data[input.below(2)];
    if (kind == 5) {
      out.put_bytes(input.bytes(input.get<std::uint8_t>()));
      return;
    }
    const auto type = static_cast<RecordType>(input.get<std::uint8_t>());
    Record record{type, {}, input.get<std::uint8_t>()};
    if (kind == 6) record.pages = {input.get<std::uint16_t>(), input.get<std::uint16_t>()};
    out.put_bytes(encode_record(record));
    const auto fill = std::min<std::uint64_t>(record.payload(), kChunkPages * kPageSize);
    out.put_bytes(std::vector(fill, std::byte{0x5a}));
  }
};

std::vector<std::byte> with_preamble(Preamble preamble, std::uint16_t flip,
                                     std::span<const std::byte> rest) {
  auto bytes = encode(preamble);
  bytes[(flip & 0xff) % bytes.size()] ^= static_cast<std::byte>(flip >> 8);
  std::vector<std::byte> all(bytes.begin(), bytes.end());
  all.insert(all.end(), rest.begin(), rest.end());
  return all;
}

// Opens the connections: the control connection, those for data once it is told the secret, and one
// that asks.
class Opener final : public Acceptor {
 public:
  Opener(Wire& wire, const Script& script) : wire_(wire), script_(script) {}

  [[nodiscard]] Result<std::unique_ptr<Channel>> accept(
      std::chrono::milliseconds /*timeout*/) override {
    Kind kind = Kind::kNone;
    wire_.wait([&] { return interrupted_ || (kind = next_kind()) != Kind::kNone || idle(); });
    if (interrupted_ || kind == Kind::kNone) {
      if (!interrupted_) gone();
      wire_.wait([&] { return interrupted_; });
      return fail(ErrorKind::kInterrupted, "interrupted");
    }
    return open(kind);
  }
  void interrupt() override {
    wire_.change([&] { interrupted_ = true; });
  }

  // The source has nothing more to say.
  std::function<void()> gone;

 private:
  enum class Kind { kNone, kControl, kData, kQuery };

  class Opened final : public InputChannel {
   public:
    Opened(Opener& opener, std::vector<std::byte> input, bool control)
        : InputChannel(opener.wire_, std::move(input), control),
          opener_(opener),
          control_(control) {}
    ~Opened() override {
      if (control_) opener_.wire_.change([&] { --opener_.controls_; });
    }

   protected:
    void written(std::span<const std::byte> bytes) override {
      constexpr auto kAccept = static_cast<std::uint32_t>(MessageType::kAccept);
      ByteReader in(bytes);
      const auto type = in.get<std::uint32_t>();
      const auto length = in.get<std::uint32_t>();
      if (!control_ || !length || type.value() != kAccept || bytes.size() < 24) return;
      opener_.wire_.change([&] {
        std::ranges::copy(bytes.subspan(8, sizeof(Secret)), opener_.secret_.begin());
        opener_.accepted_ = true;
      });
    }

   private:
    Opener& opener_;
    const bool control_;
  };

  // Under the wire's lock.
  [[nodiscard]] Kind next_kind() const {
    if (opened_ == 0) return Kind::kControl;
    if (accepted_ && data_ < script_.data.size()) return Kind::kData;
    const bool last = !accepted_ || data_ == script_.data.size();
    if (script_.asks && !asked_ && last) return Kind::kQuery;
    return Kind::kNone;
  }
  [[nodiscard]] bool idle() const { return opened_ > 0 && controls_ == 0; }

  [[nodiscard]] Result<std::unique_ptr<Channel>> open(Kind kind) {
    const auto manifest = small_manifest();
    std::vector<std::byte> bytes;
    wire_.change([&] {
      ++opened_;
      if (kind == Kind::kControl) {
        ++controls_;
        bytes = with_preamble({.id = manifest.id}, script_.control_flip, script_.control.bytes());
      } else if (kind == Kind::kQuery) {
        asked_ = true;
        bytes = with_preamble({.kind = ConnectionKind::kQuery, .id = {}}, 0, {});
      } else {
        const auto index = data_++;
        bytes = with_preamble({.kind = ConnectionKind::kData,
                               .id = manifest.id,
                               .secret = secret_,
                               .channel = static_cast<std::uint16_t>(index)},
                              index == 1 ? script_.data_flip : std::uint16_t{0},
                              script_.data[index].bytes());
      }
    });
    return std::unique_ptr<Channel>(
        std::make_unique<Opened>(*this, std::move(bytes), kind == Kind::kControl));
  }

  Wire& wire_;
  const Script& script_;
  bool interrupted_ = false;
  bool accepted_ = false;
  bool asked_ = false;
  int opened_ = 0;
  int controls_ = 0;
  std::size_t data_ = 0;
  Secret secret_{};
};

void run(Input& input) {
  const Script script(input);
  Wire wire;
  Records disk;
  Opener opener(wire, script);
  Guest guest;
  Result<> received = success();
  {
    std::optional<Destination> destination;
    opener.gone = [&] { destination->cancel(); };
    // Its thread may be done before emplace() is.
    wire.change([&] { destination.emplace(opener, disk.records, kPeerTimeout); });
    const auto manifest = destination->await_manifest();
    if (!manifest) {
      check(manifest.error().kind() == ErrorKind::kInterrupted, "it waits for the next source");
      check(!guest.restored, "no guest without a manifest");
      return;
    }
    received = destination->receive(guest);
    check(destination->state() ==
              (received ? DestinationState::kRunning : DestinationState::kDiscarded),
          "a destination knows what became of the guest");
  }
  if (!received) check_error(received.error());
  check(received.has_value() == guest.started, "a guest has arrived that runs, and no other");
  check(guest.disks == guest.started, "disks are held for a guest that runs");
  const auto decision = disk.records.lookup(small_manifest().id);
  check(decision && decision.value(), "the decision is recorded");
  check((decision.value()->outcome == Outcome::kStarted) == guest.started,
        "what is recorded is what happens");
}

const Target kTarget{"destination", run};

}  // namespace
}  // namespace vmm::fuzz
