#include "vmm/kernel_image.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>

#include "base/bytes.h"
#include "base/checked.h"
#include "base/fd.h"
#include "vmm/gzip_reader.h"

namespace vmm {
namespace {

constexpr std::size_t kHeaderSize = 64;
constexpr std::size_t kMagicOffset = 56;
constexpr std::string_view kArm64Magic = "ARM\x64";
constexpr std::string_view kRiscvMagic = "RSC\x05";
constexpr std::string_view kGzipMagic = "\x1f\x8b";
constexpr std::uint64_t kTwoMiB = 2ULL << 20;

using Header = std::array<std::byte, kHeaderSize>;

bool has_text(std::span<const std::byte> bytes, std::size_t offset, std::string_view text) {
  return offset + text.size() <= bytes.size() &&
         std::memcmp(bytes.data() + offset, text.data(), text.size()) == 0;
}

template <typename T>
T field(std::span<const std::byte> bytes, std::size_t offset) {
  T value{};
  std::memcpy(&value, bytes.data() + offset, sizeof value);
  return value;
}

// A file with its name and size, read at offsets.
struct File {
  Fd fd;
  std::string name;
  std::uint64_t size;

  [[nodiscard]] static Result<File> open(const std::filesystem::path& path) {
    // Not to wait for a writer where it is a pipe.
    auto fd = open_file(path.string(), O_RDONLY | O_NONBLOCK, 0, ErrorKind::kUsage);
    if (!fd) return fail(std::move(fd).error().add_context("kernel"));
    struct stat status {};
    if (::fstat(fd.value().get(), &status) != 0) {
      return fail_errno(ErrorKind::kFailed, "cannot stat {}", path.string());
    }
    if (!S_ISREG(status.st_mode)) {
      return fail(ErrorKind::kUsage, "kernel: {} is not a regular file", path.string());
    }
    return File{std::move(fd).value(), path.string(), static_cast<std::uint64_t>(status.st_size)};
  }

  [[nodiscard]] Result<> read_at(std::uint64_t offset, std::span<std::byte> out) const {
    std::size_t done = 0;
    while (done < out.size()) {
      const ssize_t n = ::pread(fd.get(), out.data() + done, out.size() - done,
                                static_cast<off_t>(offset + done));
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return fail_errno(ErrorKind::kFailed, "cannot read {}", name);
      if (n == 0) return fail(ErrorKind::kUsage, "kernel {} is truncated", name);
      done += static_cast<std::size_t>(n);
    }
    return success();
  }
};

// What a file that is no arm64 Image seems to be, for the error.
std::string_view describe(std::span<const std::byte> start) {
  constexpr std::size_t kBzImageMagicOffset = 0x202;
  if (has_text(start, 0,
               "\x7f"
               "ELF"))
    return "an ELF file";
  if (has_text(start, kBzImageMagicOffset, "HdrS")) return "an x86 kernel";
  if (has_text(start, kMagicOffset, kRiscvMagic)) return "a RISC-V kernel";
  if (has_text(start, 4, "zimg")) return "a self-extracting EFI image: extract the Image from it";
  return "something else";
}

// Fields of the Image header that say where it goes.
struct Placement {
  std::uint64_t text_offset;  // from a 2 MiB boundary
  std::uint64_t image_size;   // with zero-initialised data
};

Result<Placement> parse_header(const Header& header, const File& file,
                               std::span<const std::byte> start, std::uint64_t ram_size) {
  if (!has_text(header, kMagicOffset, kArm64Magic)) {
    return fail(ErrorKind::kUsage, "kernel {} is not an arm64 Linux Image but {}", file.name,
                describe(start));
  }
  constexpr std::uint64_t kBigEndian = 1;
  const Placement placement{field<std::uint64_t>(header, 8), field<std::uint64_t>(header, 16)};
  if ((field<std::uint64_t>(header, 24) & kBigEndian) != 0) {
    return fail(ErrorKind::kUsage, "kernel {} is big-endian, which is not supported", file.name);
  }
  if (placement.image_size == 0) {
    return fail(ErrorKind::kUsage, "kernel {} does not say its size: it is older than Linux 3.17",
                file.name);
  }
  const auto end = checked_add(placement.text_offset, placement.image_size);
  if (placement.text_offset >= kTwoMiB || !end || *end > ram_size) {
    return fail(ErrorKind::kUsage,
                "kernel {} needs {} bytes of memory at offset {}, the guest has {}", file.name,
                placement.image_size, placement.text_offset, ram_size);
  }
  return placement;
}

// Bytes that the PE/COFF sections of an EFI-bootable image claim to occupy in the file, or nothing
// where there is no such header: the Image header itself does not say.
std::optional<std::uint64_t> pe_file_size(std::span<const std::byte> image) {
  constexpr std::size_t kCoffSize = 24;  // with the signature
  constexpr std::size_t kSectionSize = 40;
  const std::uint64_t pe = field<std::uint32_t>(image, 60);
  if (pe == 0 || pe + kCoffSize > image.size() || !has_text(image, pe, {"PE\0\0", 4})) return {};
  const unsigned sections = field<std::uint16_t>(image, pe + 6);
  const std::uint64_t table = pe + kCoffSize + field<std::uint16_t>(image, pe + 20);
  if (table + sections * kSectionSize > image.size()) return {};
  std::uint64_t end = 0;
  for (std::uint64_t i = 0; i < sections; ++i) {
    const std::uint64_t section = table + i * kSectionSize;
    const std::uint64_t size = field<std::uint32_t>(image, section + 16);
    const std::uint64_t offset = field<std::uint32_t>(image, section + 20);
    end = std::max(end, offset + size);
  }
  return end;
}

Result<LoadedKernel> finish(const File& file, const Placement& placement,
                            std::span<const std::byte> image) {
  if (const auto needed = pe_file_size(image); needed && *needed > image.size()) {
    return fail(ErrorKind::kUsage, "kernel {} is truncated: {} bytes of {} are there", file.name,
                image.size(), *needed);
  }
  return LoadedKernel{placement.text_offset, placement.text_offset + placement.image_size};
}

Result<LoadedKernel> load_raw(const File& file, std::span<const std::byte> start,
                              std::span<std::byte> ram) {
  if (file.size < kHeaderSize) {
    return fail(ErrorKind::kUsage, "kernel {} is truncated: it has {} bytes", file.name, file.size);
  }
  Header header;
  std::ranges::copy(start.first(kHeaderSize), header.begin());
  TRY(const auto placement, parse_header(header, file, start, ram.size()));
  if (file.size > ram.size() - placement.text_offset) {
    return fail(ErrorKind::kUsage, "kernel {} does not fit into the guest's memory", file.name);
  }
  const auto image = ram.subspan(placement.text_offset, file.size);
  TRY(file.read_at(0, image));
  return finish(file, placement, image);
}

Result<LoadedKernel> load_gzip(const File& file, std::span<std::byte> ram) {
  TRY(auto reader, GzipReader::open(file.fd, "kernel " + file.name));
  Header header;
  TRY(const auto header_bytes, reader.read(header));
  if (header_bytes < header.size()) {
    return fail(ErrorKind::kUsage, "kernel {} is truncated: {} bytes are in it", file.name,
                header_bytes);
  }
  TRY(const auto placement, parse_header(header, file, header, ram.size()));
  const auto target = ram.subspan(placement.text_offset);
  std::ranges::copy(header, target.begin());
  TRY(const auto rest, reader.read(target.subspan(header.size())));
  std::byte beyond{};
  TRY(const auto left, reader.read({&beyond, 1}));
  if (left != 0) {
    return fail(ErrorKind::kUsage, "kernel {} does not fit into the guest's memory", file.name);
  }
  return finish(file, placement, target.first(header.size() + rest));
}

}  // namespace

Result<LoadedKernel> load_kernel(const std::filesystem::path& path, std::span<std::byte> ram) {
  TRY(const auto file, File::open(path));
  std::array<std::byte, 1024> buffer{};
  const auto start = std::span(buffer).first(
      static_cast<std::size_t>(std::min<std::uint64_t>(file.size, buffer.size())));
  TRY(file.read_at(0, start));
  if (has_text(start, 0, kGzipMagic)) return load_gzip(file, ram);
  return load_raw(file, start, ram);
}

}  // namespace vmm
