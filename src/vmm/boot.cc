#include "vmm/boot.h"

#include <fcntl.h>
#include <sys/random.h>
#include <sys/stat.h>

#include <algorithm>
#include <optional>

#include "base/fd.h"
#include "vmm/device_tree.h"
#include "vmm/kernel_image.h"
#include "vmm/layout.h"

namespace vmm {
namespace {

// The kernel wants the initrd within 32 GiB of itself; the first GiB is near enough.
constexpr std::uint64_t kImagesEnd = 1ULL << 30;
// The device tree must not cross a 2 MiB boundary.
constexpr std::uint64_t kDeviceTreeAlignment = 2ULL << 20;

struct Initrd {
  std::uint64_t offset;  // into RAM
  std::uint64_t size;
};

Result<std::optional<Initrd>> load_initrd(const GuestConfig::Boot& boot, std::uint64_t kernel_end,
                                          std::span<std::byte> ram) {
  if (!boot.initrd) return std::optional<Initrd>();
  const std::string path = boot.initrd->string();
  // Not to wait for a writer where it is a pipe.
  auto fd = open_file(path, O_RDONLY | O_NONBLOCK, 0, ErrorKind::kUsage);
  if (!fd) return fail(std::move(fd).error().add_context("initrd"));
  struct stat status {};
  if (::fstat(fd.value().get(), &status) != 0) {
    return fail_errno(ErrorKind::kFailed, "cannot stat {}", path);
  }
  if (!S_ISREG(status.st_mode)) {
    return fail(ErrorKind::kUsage, "initrd: {} is not a regular file", path);
  }
  const auto size = static_cast<std::uint64_t>(status.st_size);
  const std::uint64_t end = std::min<std::uint64_t>(ram.size(), kImagesEnd);
  if (size == 0) return fail(ErrorKind::kUsage, "initrd: {} is empty", path);
  // The device tree's 2 MiB and the rounding come out of the same room.
  if (kernel_end > end || size > end - kernel_end ||
      end - kernel_end - size < 2 * kDeviceTreeAlignment) {
    return fail(ErrorKind::kUsage, "initrd {} ({} bytes) does not fit into the guest's memory",
                path, size);
  }
  const Initrd initrd{(end - size) & ~(kPageSize - 1), size};
  TRY(read_exact(fd.value(), ram.subspan(initrd.offset, size), "initrd " + path));
  return std::optional(initrd);
}

Result<> fill_random(std::span<std::byte> bytes) {
  if (::getrandom(bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size())) {
    return fail_errno(ErrorKind::kHost, "getrandom failed");
  }
  return success();
}

}  // namespace

Result<BootEntry> load_boot_images(const GuestConfig& config,
                                   const std::vector<std::uint64_t>& cpu_affinities,
                                   const GuestMemory& memory) {
  const auto ram = memory.regions()[0].bytes;
  TRY(const auto kernel, load_kernel(config.boot.kernel, ram));
  TRY(const auto initrd, load_initrd(config.boot, kernel.end, ram));

  DeviceTreeConfig tree;
  tree.memory_size = memory.size();
  tree.cpu_affinities = cpu_affinities;
  tree.pmu = config.cpu.pmu;
  tree.virtio_slots = virtio_device_count(config);
  tree.cmdline = config.boot.cmdline;
  const std::uint64_t images_end =
      initrd ? initrd->offset : std::min<std::uint64_t>(ram.size(), kImagesEnd);
  if (initrd) {
    tree.initrd = {layout::kRamBase + initrd->offset,
                   layout::kRamBase + initrd->offset + initrd->size};
  }
  TRY(fill_random(tree.rng_seed));
  TRY(fill_random(tree.kaslr_seed));
  TRY(const auto blob, build_device_tree(tree));

  const std::uint64_t tree_offset =
      (images_end - kDeviceTreeAlignment) & ~(kDeviceTreeAlignment - 1);
  if (images_end < 2 * kDeviceTreeAlignment || tree_offset < kernel.end) {
    return fail(ErrorKind::kUsage, "kernel {} leaves no room in the guest's memory of {} bytes",
                config.boot.kernel.string(), ram.size());
  }
  std::ranges::copy(blob, ram.subspan(tree_offset).begin());
  return BootEntry{layout::kRamBase + kernel.entry, layout::kRamBase + tree_offset};
}

}  // namespace vmm
