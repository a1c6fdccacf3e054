#include "base/mapping.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <utility>

namespace vmm {
namespace {

constexpr std::size_t kMiB = 1 << 20;

std::size_t page_size() {
  return static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
}

// Whether any page of [address, address + size) is mapped.
bool is_mapped(const std::byte* address, std::size_t size) {
  for (std::size_t at = 0; at < size; at += page_size()) {
    // A failed probe of a page that is not mapped gives ENOMEM.
    unsigned char resident = 0;
    void* page = const_cast<std::byte*>(address + at);
    if (::mincore(page, page_size(), &resident) == 0) return true;
  }
  return false;
}

Fd memory_file(std::size_t size) {
  Fd fd(::memfd_create("mapping-test", MFD_CLOEXEC));
  if (!fd.valid() || ::ftruncate(fd.get(), static_cast<off_t>(size)) != 0) std::abort();
  return fd;
}

TEST(MappingTest, AnonymousMemoryIsAlignedZeroedAndWritable) {
  for (const std::size_t alignment : {page_size(), 2 * kMiB, 64 * kMiB}) {
    for (const std::size_t size : {page_size(), kMiB, 3 * kMiB}) {
      const auto mapping = Mapping::anonymous(size, alignment).value();
      ASSERT_EQ(mapping.size(), size);
      EXPECT_EQ(reinterpret_cast<std::uintptr_t>(mapping.data()) % alignment, 0u);
      EXPECT_EQ(mapping.bytes().front(), std::byte{0});
      EXPECT_EQ(mapping.bytes().back(), std::byte{0});
      mapping.bytes().back() = std::byte{1};
    }
  }
}

TEST(MappingTest, RefusesASizeThatWrapsWithItsAlignment) {
  const auto mapping = Mapping::anonymous(SIZE_MAX - kMiB + 1, 2 * kMiB);
  ASSERT_FALSE(mapping);
  EXPECT_EQ(mapping.error().kind(), ErrorKind::kUsage);
}

TEST(MappingTest, UnmapsWhenItGoes) {
  const std::byte* address = nullptr;
  {
    const auto mapping = Mapping::anonymous(kMiB, 2 * kMiB).value();
    address = mapping.data();
    EXPECT_TRUE(is_mapped(address, kMiB));
  }
  EXPECT_FALSE(is_mapped(address, kMiB));
}

TEST(MappingTest, MovesOwnership) {
  auto first = Mapping::anonymous(kMiB, page_size()).value();
  const std::byte* address = first.data();
  const Mapping second = std::move(first);
  EXPECT_EQ(second.data(), address);
  EXPECT_EQ(first.size(), 0u);  // NOLINT(bugprone-use-after-move)
  EXPECT_TRUE(is_mapped(address, kMiB));
}

TEST(MappingTest, SharedMappingReachesTheFile) {
  const Fd fd = memory_file(2 * page_size());
  const auto mapping = Mapping::shared(fd, page_size(), page_size()).value();
  mapping.bytes()[3] = std::byte{0x42};
  std::byte read_back{};
  ASSERT_EQ(::pread(fd.get(), &read_back, 1, static_cast<off_t>(page_size() + 3)), 1);
  EXPECT_EQ(read_back, std::byte{0x42});
}

TEST(MappingTest, ReadOnlyMappingShowsTheFile) {
  const Fd fd = memory_file(page_size());
  const char text[] = "kernel";
  ASSERT_EQ(::pwrite(fd.get(), text, sizeof text, 0), static_cast<ssize_t>(sizeof text));
  const auto mapping = Mapping::read_only(fd, page_size()).value();
  EXPECT_STREQ(reinterpret_cast<const char*>(mapping.data()), text);
}

TEST(MappingDeathTest, ReadOnlyMappingCannotBeWritten) {
  const Fd fd = memory_file(page_size());
  const auto mapping = Mapping::read_only(fd, page_size()).value();
  EXPECT_DEATH(*const_cast<volatile std::byte*>(mapping.data()) = std::byte{1}, "");
}

TEST(MappingTest, SaysThatMemoryIsMissing) {
  const auto mapping = Mapping::anonymous(std::size_t{1} << 51, 2 * kMiB);
  ASSERT_FALSE(mapping);
  EXPECT_EQ(mapping.error().kind(), ErrorKind::kHost);
  EXPECT_EQ(mapping.error().system_errno(), ENOMEM);
}

TEST(MappingTest, SaysThatAFileCannotBeMapped) {
  const Fd closed;
  EXPECT_EQ(Mapping::read_only(closed, page_size()).error().system_errno(), EBADF);
  EXPECT_EQ(Mapping::shared(memory_file(page_size()), 0).error().system_errno(), EINVAL);
}

}  // namespace
}  // namespace vmm
