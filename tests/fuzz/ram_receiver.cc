#include "migration/ram_receiver.h"

#include <sys/mman.h>

#include "fuzz_channels.h"

// Records of data channels into guest memory: steps that lay them out for two channels, well-formed
// or not.
namespace vmm::fuzz {
namespace {

using namespace migration;

constexpr std::uint64_t kRam = 0x4000'0000;
constexpr std::uint64_t kPages = 600;  // more than a chunk, and than what is given back at once

GuestMemory& memory() {
  static GuestMemory ram =
      GuestMemory::create(kRam, kPages * kPageSize, Backing::kAnonymous).value();
  return ram;
}

void put_record(std::vector<std::byte>& out, const Record& record, std::uint8_t value) {
  const auto header = encode_record(record);
  out.insert(out.end(), header.begin(), header.end());
  out.insert(out.end(), record.payload(), static_cast<std::byte>(value));
}

// Bytes of at most 4 MiB for the two channels.
std::array<std::vector<std::byte>, 2> streams(Input& input) {
  std::array<std::vector<std::byte>, 2> made;
  while (!input.empty() && made[0].size() + made[1].size() < (std::size_t{4} << 20)) {
    const auto shape = input.get<std::uint8_t>();
    auto& out = made[shape & 1];
    switch (shape / 2 % 5) {
      case 0: {  // anything
        const auto bytes = input.bytes(input.get<std::uint8_t>());
        out.insert(out.end(), bytes.begin(), bytes.end());
        break;
      }
      case 1:
        put_record(out, {RecordType::kRoundEnd, {}, input.get<std::uint8_t>()}, 0);
        break;
      default: {
        Record record{static_cast<RecordType>(shape / 2 % 5 - 1), {}, 0};
        record.pages.first = input.get<std::uint16_t>() % (kPages + 8);
        record.pages.count = input.get<std::uint16_t>() % (kPages + 8);
        if (record.type == RecordType::kPages) record.pages.count %= kChunkPages + 2;
        put_record(out, record, input.get<std::uint8_t>());
        break;
      }
    }
  }
  return made;
}

void run(Input& input) {
  const auto ram = memory().regions()[0].bytes;
  ::madvise(ram.data(), ram.size(), MADV_DONTNEED);
  Wire wire;
  std::vector<std::unique_ptr<Channel>> channels;
  const bool two = input.below(2) != 0;
  auto bytes = streams(input);
  channels.push_back(std::make_unique<InputChannel>(wire, std::move(bytes[0]), true));
  if (two) channels.push_back(std::make_unique<InputChannel>(wire, std::move(bytes[1]), true));

  std::atomic<std::uint32_t> rounds = 0;
  bool failed = false;
  bool over = false;
  RamReceiver receiver(memory(), std::move(channels),
                       {.round_complete =
                            [&](std::uint32_t round) {
                              check(round == ++rounds, "rounds are complete in their order");
                            },
                        .failed =
                            [&](const Error& error) {
                              check(!failed, "a failure is told once");
                              failed = true;
                              check_error(error);
                              wire.change([&] { over = true; });
                            }});
  // The peer closes in the end, whatever it has sent.
  wire.wait([&] { return over; });
  check(!receiver.finish() && failed, "a connection that is closed has failed");
}

const Target kTarget{"ram_receiver", run};

}  // namespace
}  // namespace vmm::fuzz
