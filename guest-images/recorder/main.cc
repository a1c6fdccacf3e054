// Writes numbered records to a disk from several threads and prints "ack N" once the disk has said
// that record N is durable, until the disk is full. What it has printed must be on the image
// whatever happens to the machine.
//
//   recorder DISK [THREADS]
//
// Record N is the 4 KiB at N * 4 KiB, every 8-byte little-endian word of it N + 1. Threads take
// turns; even ones write with O_DIRECT and O_DSYNC (a write and a flush each), odd ones through the
// page cache followed by fdatasync().

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <charconv>
#include <cstdint>
#include <cstdio>
#include <string_view>
#include <thread>
#include <vector>

#include "base/fd.h"

namespace vmm::recorder {
namespace {

constexpr std::size_t kRecordBytes = 4096;
constexpr unsigned kDefaultThreads = 4;
constexpr unsigned kMaxThreads = 64;

struct alignas(kRecordBytes) Record {
  std::array<std::uint64_t, kRecordBytes / sizeof(std::uint64_t)> words;
};

Result<std::uint64_t> record_count(const Fd& disk, const std::string& path) {
  const off_t size = lseek(disk.get(), 0, SEEK_END);
  if (size < 0) return fail_errno(ErrorKind::kFailed, "size of {}", path);
  return static_cast<std::uint64_t>(size) / kRecordBytes;
}

Result<> write_durably(const Fd& disk, const std::string& path, std::uint64_t number, bool direct) {
  Record record{};
  record.words.fill(number + 1);
  const auto place = static_cast<off_t>(number * kRecordBytes);
  const ssize_t written = pwrite(disk.get(), &record, sizeof(record), place);
  if (written != static_cast<ssize_t>(sizeof(record))) {
    return fail_errno(ErrorKind::kFailed, "write record {} to {}", number, path);
  }
  if (!direct && fdatasync(disk.get()) != 0) {
    return fail_errno(ErrorKind::kFailed, "flush record {} to {}", number, path);
  }
  return success();
}

Result<> record_all(const std::string& path, unsigned thread, unsigned threads) {
  const bool direct = thread % 2 == 0;
  TRY(const Fd disk, open_file(path, direct ? O_WRONLY | O_DIRECT | O_DSYNC : O_WRONLY));
  TRY(const std::uint64_t count, record_count(disk, path));
  for (std::uint64_t number = thread; number < count; number += threads) {
    TRY(write_durably(disk, path, number, direct));
    std::printf("ack %llu\n", static_cast<unsigned long long>(number));
    std::fflush(stdout);
  }
  return success();
}

int run(const std::string& path, unsigned threads) {
  std::vector<Result<>> results(threads, success());
  {
    std::vector<std::jthread> running;
    for (unsigned i = 0; i < threads; ++i) {
      running.emplace_back([&, i] { results[i] = record_all(path, i, threads); });
    }
  }
  int status = 0;
  for (const Result<>& result : results) {
    if (result) continue;
    std::fprintf(stderr, "recorder: %s\n", result.error().message().c_str());
    status = 1;
  }
  if (status == 0) std::printf("recorder: the disk is full\n");
  return status;
}

}  // namespace
}  // namespace vmm::recorder

int main(int argc, char** argv) {
  unsigned threads = vmm::recorder::kDefaultThreads;
  const std::string_view number = argc == 3 ? argv[2] : "";
  const auto [end, status] = std::from_chars(number.data(), number.data() + number.size(), threads);
  const bool bad =
      !number.empty() && (status != std::errc{} || end != number.data() + number.size() ||
                          threads < 1 || threads > vmm::recorder::kMaxThreads);
  if (argc < 2 || argc > 3 || bad) {
    std::fprintf(stderr, "usage: recorder DISK [1 to %u threads]\n", vmm::recorder::kMaxThreads);
    return 2;
  }
  return vmm::recorder::run(argv[1], threads);
}
