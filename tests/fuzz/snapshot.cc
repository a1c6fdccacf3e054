#include "migration/snapshot_reader.h"

#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <vector>

#include "fuzz.h"

// A snapshot file. The input says what its header does, and what lies behind its pages, which are
// full of sevens, a few at most: bit 0 of the first byte makes the checksums of header and parts
// right, which no mutation would.
namespace vmm::fuzz {
namespace {

using namespace migration;

constexpr std::uint64_t kMaxPages = 64;

std::vector<std::byte> make_file(Input& input) {
  const bool checksums = (input.get<std::uint8_t>() & 1) != 0;
  SnapshotHeader header;
  header.pages = input.get<std::uint64_t>();
  for (auto& part : header.parts) part = {input.get<std::uint64_t>(), 0};
  std::vector<std::byte> file(kSnapshotHeaderBytes);
  file.resize(file.size() + std::min(header.pages, kMaxPages) * kPageSize, std::byte{7});
  const auto rest = input.rest();
  std::size_t at = 0;
  for (auto& part : header.parts) {
    const auto bytes = rest.subspan(at, std::min<std::size_t>(part.bytes, rest.size() - at));
    at += bytes.size();
    if (checksums) part.checksum = snapshot_checksum(bytes);
  }
  std::ranges::copy(encode(header), file.begin());
  file.insert(file.end(), rest.begin(), rest.end());
  return file;
}

void run(Input& input) {
  const auto file = make_file(input);
  Fd fd(::memfd_create("snapshot", MFD_CLOEXEC));
  check(fd.valid() && write_all(fd, file, "snapshot").has_value(), "there is a file");
  const auto reader = SnapshotReader::open(std::move(fd), "snapshot");
  if (!reader) {
    check(!reader.error().message().empty(), "an error says what is wrong");
    return;
  }
  const auto& snapshot = reader.value();
  check(migration::check(snapshot.manifest()).has_value(), "the machine is one");
  check(snapshot.index().size() * kSnapshotChunkBytes == snapshot.manifest().memory,
        "the index has all memory");
  std::vector<std::byte> buffer(kSnapshotChunkBytes);
  for (std::size_t n = 0; n < snapshot.index().size(); ++n) {
    const auto& [pages, checksum] = snapshot.index()[n];
    const auto bytes = snapshot.read(n, buffer);
    if (!bytes) continue;
    check(bytes.value().size() == static_cast<std::size_t>(std::popcount(pages)) * kPageSize,
          "a chunk has its pages");
    check(snapshot_checksum(bytes.value()) == checksum, "and they are right");
    check(std::ranges::all_of(bytes.value(), [](std::byte byte) { return byte == std::byte{7}; }),
          "and come from where pages are");
  }
}

const Target kTarget{"snapshot", run};

}  // namespace
}  // namespace vmm::fuzz
