// Measures how a snapshot is written and loaded, with the program's own code and no guest.
//
//   snapshot_timer FILE MIB
//
// Fills MIB of memory with pages that differ, writes it to FILE, drops that from the page cache,
// and loads it as `vmm restore` does. Prints "save_ms=… first_ms=… loaded_ms=… FILE": writing;
// opening the file until the first page, the last by address, was touched; and until all is there.
// Exit status 1 with one line on stderr where something fails.

#include <fcntl.h>
#include <unistd.h>

#include <charconv>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <future>
#include <string>

#include "memory/guest_memory.h"
#include "memory/pagemap.h"
#include "migration/snapshot_loader.h"
#include "migration/snapshot_writer.h"

namespace vmm::bench {
namespace {

using Clock = std::chrono::steady_clock;
using namespace migration;

constexpr std::uint64_t kBase = 0x4000'0000;

double ms_since(Clock::time_point begun) {
  return std::chrono::duration<double, std::milli>(Clock::now() - begun).count();
}

Result<double> save(const std::string& path, std::uint64_t bytes) {
  TRY(const auto memory, GuestMemory::create(kBase, bytes, Backing::kAnonymous));
  const auto ram = memory.regions()[0].bytes;
  for (std::uint64_t at = 0; at < ram.size(); at += sizeof at) {
    std::memcpy(ram.data() + at, &at, sizeof at);
  }
  SnapshotContents contents;
  contents.manifest.guest = "bench";
  contents.manifest.memory = bytes;
  contents.manifest.boot.kernel = "Image";
  contents.manifest.page_size = kPageSize;
  contents.state.resize(64 << 10);
  TRY(const auto pagemap, Pagemap::open());
  const auto begun = Clock::now();
  SnapshotCalls calls;
  SnapshotProgress progress;
  TRY(auto file, SnapshotFile::create(path, calls));
  TRY(write_snapshot(*file, contents, memory, pagemap, progress));
  TRY(file->commit());
  return ms_since(begun);
}

Result<> drop_from_cache(const std::string& path) {
  TRY(const auto fd, open_file(path, O_RDONLY));
  if (::posix_fadvise(fd.get(), 0, 0, POSIX_FADV_DONTNEED) != 0) {
    return fail(ErrorKind::kFailed, "cannot drop {} from the page cache", path);
  }
  return success();
}

Result<> measure(const std::string& path, std::uint64_t bytes) {
  TRY(const auto save_ms, save(path, bytes));
  TRY(drop_from_cache(path));
  TRY(auto memory, GuestMemory::create(kBase, bytes, Backing::kAnonymous));
  std::promise<Result<>> end;
  const auto begun = Clock::now();
  TRY(auto reader, SnapshotReader::open(path));
  TRY(auto loader,
      SnapshotLoader::start(std::make_shared<const SnapshotReader>(std::move(reader)), memory,
                            [&end](Result<> result) { end.set_value(std::move(result)); }));
  std::uint64_t last = 0;
  std::memcpy(&last, &memory.regions()[0].bytes.back() - (sizeof last - 1), sizeof last);
  const double first_ms = ms_since(begun);
  TRY(end.get_future().get());
  const double loaded_ms = ms_since(begun);
  if (last != bytes - sizeof last) return fail(ErrorKind::kFailed, "the last page is wrong");
  fmt::print("save_ms={:.1f} first_ms={:.2f} loaded_ms={:.1f} {}\n", save_ms, first_ms, loaded_ms,
             path);
  return success();
}

}  // namespace
}  // namespace vmm::bench

int main(int argc, char** argv) {
  const std::string_view size = argc == 3 ? argv[2] : "";
  std::uint64_t mib = 0;
  const auto parsed = std::from_chars(size.begin(), size.end(), mib);
  if (parsed.ec != std::errc() || parsed.ptr != size.end() || mib < 2 || mib % 2 != 0) {
    ::fputs("usage: snapshot_timer FILE MIB, an even number\n", stderr);
    return 2;
  }
  const auto result = vmm::bench::measure(argv[1], mib << 20);
  if (result) return 0;
  ::fprintf(stderr, "snapshot_timer: %s\n", result.error().message().c_str());
  return 1;
}
