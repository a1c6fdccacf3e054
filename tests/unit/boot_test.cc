#include "vmm/boot.h"

#include <sys/stat.h>

#include <cstring>

#include "fdt_support.h"
#include "vmm/layout.h"
#include "vmm_support.h"

namespace vmm {
namespace {

constexpr std::uint64_t kMiB = 1 << 20;
constexpr std::uint64_t kRam = layout::kRamBase;

class BootTest : public ::testing::Test {
 protected:
  // A kernel of 4 KiB that says it needs image_size bytes at text_offset.
  void use_kernel(std::uint64_t image_size, std::uint64_t text_offset = 0) {
    std::string image(4096, 'k');
    image.replace(0, 64, std::string(64, '\0'));
    std::memcpy(image.data() + 8, &text_offset, sizeof text_offset);
    std::memcpy(image.data() + 16, &image_size, sizeof image_size);
    image.replace(56, 4, "ARM\x64");
    config_.boot.kernel = dir_.file("Image", image);
  }
  void use_initrd(std::size_t size) {
    initrd_.resize(size);
    for (std::size_t i = 0; i < size; ++i) initrd_[i] = static_cast<char>(i * 13 >> 4);
    config_.boot.initrd = dir_.file("initrd", initrd_);
  }
  void use_memory(std::uint64_t size) {
    auto memory = GuestMemory::create(kRam, size, Backing::kAnonymous);
    ASSERT_TRUE(memory) << memory.error().message();
    memory_.emplace(std::move(memory).value());
  }
  Result<BootEntry> load() { return load_boot_images(config_, {0, 1}, *memory_); }
  FdtReader tree(const BootEntry& entry) {
    return FdtReader(memory_->slice(entry.device_tree, tree_size(entry)).value());
  }
  std::uint64_t tree_size(const BootEntry& entry) {
    return fdt_totalsize(memory_->slice(entry.device_tree, 64 << 10).value().data());
  }
  // The images lie in RAM and do not overlap; returns the start of the initrd.
  std::uint64_t expect_placed(const BootEntry& entry, std::uint64_t kernel_end) {
    const auto fdt = tree(entry);
    EXPECT_EQ(entry.device_tree % (2 * kMiB), 0U);
    EXPECT_GE(entry.device_tree, kernel_end);
    const auto tree_end = entry.device_tree + tree_size(entry);
    EXPECT_LE(tree_end, kRam + memory_->size());
    if (!config_.boot.initrd) return 0;
    const auto start = fdt.u64s("/chosen", "linux,initrd-start").at(0);
    const auto end = fdt.u64s("/chosen", "linux,initrd-end").at(0);
    EXPECT_EQ(start % 4096, 0U);
    EXPECT_GE(start, tree_end);
    EXPECT_LE(end, kRam + memory_->size());
    EXPECT_EQ(end - start, initrd_.size());
    EXPECT_TRUE(text_of(memory_->slice(start, initrd_.size()).value()) == initrd_);
    return start;
  }

  TempDir dir_;
  GuestConfig config_;
  std::string initrd_;
  std::optional<GuestMemory> memory_;
};

TEST_F(BootTest, PlacesKernelTreeAndInitrd) {
  use_memory(64 * kMiB);
  use_kernel(8 * kMiB, 0x8'0000);
  use_initrd(1'000'001);
  config_.boot.cmdline = "console=ttyAMA0";
  config_.cpu.pmu = true;
  const auto entry = load();
  ASSERT_TRUE(entry) << entry.error().message();
  EXPECT_EQ(entry.value().kernel, kRam + 0x8'0000);
  EXPECT_EQ(text_of(memory_->slice(kRam + 0x8'0000 + 64, 4).value()), "kkkk");
  expect_placed(entry.value(), kRam + 0x8'0000 + 8 * kMiB);
  const auto fdt = tree(entry.value());
  EXPECT_EQ(fdt.text("/chosen", "bootargs"), "console=ttyAMA0");
  EXPECT_THAT(fdt.u64s("/memory@40000000", "reg"), ::testing::ElementsAre(kRam, 64 * kMiB));
  EXPECT_TRUE(fdt.has_node("/cpus/cpu@1"));
  EXPECT_TRUE(fdt.has_node("/pmu"));
}

TEST_F(BootTest, WorksWithoutInitrd) {
  use_memory(32 * kMiB);
  use_kernel(8 * kMiB);
  const auto entry = load();
  ASSERT_TRUE(entry) << entry.error().message();
  expect_placed(entry.value(), kRam + 8 * kMiB);
  EXPECT_FALSE(tree(entry.value()).has("/chosen", "linux,initrd-start"));
}

TEST_F(BootTest, ImagesStayInTheFirstGigabyte) {
  use_memory(3072 * kMiB);
  use_kernel(8 * kMiB);
  use_initrd(5000);
  const auto entry = load();
  ASSERT_TRUE(entry) << entry.error().message();
  EXPECT_LT(expect_placed(entry.value(), kRam + 8 * kMiB), kRam + 1024 * kMiB);
  EXPECT_LT(entry.value().device_tree, kRam + 1024 * kMiB);
}

TEST_F(BootTest, SeedsDifferFromBootToBoot) {
  use_memory(32 * kMiB);
  use_kernel(kMiB);
  const auto first = tree(load().value());
  const auto second = tree(load().value());
  for (const auto* seed : {"rng-seed", "kaslr-seed"}) {
    EXPECT_NE(first.raw("/chosen", seed), second.raw("/chosen", seed)) << seed;
  }
}

// Whatever the sizes, either everything has its place or there is an error.
TEST_F(BootTest, ImagesNeverOverlapInSmallMemory) {
  use_memory(32 * kMiB);
  int placed = 0;
  int refused = 0;
  for (const std::size_t initrd_size : {0U, 1U, 5U << 20}) {
    if (initrd_size != 0) use_initrd(initrd_size);
    for (std::uint64_t size = 20 * kMiB; size <= 32 * kMiB; size += kMiB) {
      use_kernel(size);
      const auto entry = load();
      if (entry) {
        expect_placed(entry.value(), kRam + size);
        ++placed;
      } else {
        EXPECT_EQ(entry.error().kind(), ErrorKind::kUsage) << entry.error().message();
        ++refused;
      }
    }
  }
  EXPECT_GT(placed, 5);
  EXPECT_GT(refused, 5);
}

TEST_F(BootTest, AKernelThatFillsMemoryLeavesNoRoom) {
  use_memory(32 * kMiB);
  use_kernel(31 * kMiB);
  expect_error(load(), ErrorKind::kUsage, "leaves no room");
}

TEST_F(BootTest, AnInitrdThatDoesNotFitIsRefused) {
  use_memory(32 * kMiB);
  use_kernel(8 * kMiB);
  for (const std::uint64_t size : {21 * kMiB, 24 * kMiB, 32 * kMiB, 40 * kMiB}) {
    config_.boot.initrd = dir_.file("large", "");
    std::filesystem::resize_file(*config_.boot.initrd, size);
    expect_error(load(), ErrorKind::kUsage, "does not fit into the guest's memory");
  }
}

TEST_F(BootTest, FilesThatCannotBeLoadedAreNamed) {
  use_memory(32 * kMiB);
  use_kernel(8 * kMiB);
  ASSERT_EQ(::mkfifo((dir_ / "fifo").c_str(), 0600), 0);
  struct Case {
    std::filesystem::path path;
    const char* words;
  };
  for (const auto& [path, words] :
       {Case{dir_ / "none", "No such file"}, Case{dir_.path(), "not a regular file"},
        Case{dir_ / "fifo", "not a regular file"}, Case{dir_.file("empty", ""), "is empty"}}) {
    config_.boot.initrd = path;
    expect_error(load(), ErrorKind::kUsage, words);
    expect_error(load(), ErrorKind::kUsage, path.string());
  }
  config_.boot.initrd.reset();
  config_.boot.kernel = dir_ / "none";
  expect_error(load(), ErrorKind::kUsage, "No such file");
}

}  // namespace
}  // namespace vmm
