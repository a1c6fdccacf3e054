#include "devices/disk_image.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "block_fakes.h"

namespace vmm {
namespace {

using ::testing::HasSubstr;

// The error of opening an image, which names it.
std::string open_error(const DiskImageOptions& options) {
  const auto image = DiskImage::open(options);
  if (image) return "opened";
  const std::string message = image.error().message();
  const bool locked = message.find("locked by another process") != std::string::npos;
  EXPECT_EQ(image.error().kind(), locked ? ErrorKind::kFailed : ErrorKind::kUsage);
  EXPECT_THAT(message, HasSubstr(options.path));
  return message;
}

TEST(DiskImageTest, KnowsItsSize) {
  const TempImage file(3 * kSectorSize);
  const auto image = file.open();
  EXPECT_EQ(image->size(), 3 * kSectorSize);
  EXPECT_EQ(image->block_size(), kSectorSize);
  EXPECT_TRUE(image->held());
  EXPECT_FALSE(image->read_only());
}

TEST(DiskImageTest, SaysWhatIsWrongWithAPath) {
  EXPECT_THAT(open_error({.path = "/nonexistent/disk.img"}), HasSubstr("No such file"));
  EXPECT_THAT(open_error({.path = ::testing::TempDir()}), HasSubstr("neither a regular file"));
  EXPECT_THAT(open_error({.path = "/dev/null"}), HasSubstr("neither a regular file"));
  // Opening a pipe for reading would wait for a writer.
  const std::string pipe = ::testing::TempDir() + "vmm-image-pipe";
  ::unlink(pipe.c_str());
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  EXPECT_THAT(open_error({.path = pipe, .read_only = true}), HasSubstr("neither a regular file"));
  ::unlink(pipe.c_str());
}

TEST(DiskImageTest, SizeIsANonZeroMultipleOfTheSectorSize) {
  const TempImage empty(0);
  EXPECT_THAT(open_error({.path = empty.path}), HasSubstr("0 bytes"));
  const TempImage odd(1000);
  EXPECT_THAT(open_error({.path = odd.path}), HasSubstr("1000 bytes"));
}

TEST(DiskImageTest, WriteProtectedImageOpensReadOnlyAlone) {
  const TempImage file(kSectorSize);
  ASSERT_EQ(::chmod(file.path.c_str(), 0444), 0);
  // As root, too, which the kernel lets write to it.
  EXPECT_THAT(open_error({.path = file.path}), HasSubstr("write-protected"));
  EXPECT_TRUE(file.open(true)->read_only());
}

TEST(DiskImageTest, WriterExcludesEverybody) {
  const TempImage file(kSectorSize);
  const auto writer = file.open();
  EXPECT_THAT(open_error({.path = file.path}), HasSubstr("locked by another process"));
  EXPECT_THAT(open_error({.path = file.path, .read_only = true}),
              HasSubstr("locked by another process"));
}

TEST(DiskImageTest, ReadersShareAndExcludeWriters) {
  const TempImage file(kSectorSize);
  const auto first = file.open(true);
  const auto second = file.open(true);
  EXPECT_THAT(open_error({.path = file.path}), HasSubstr("locked by another process"));
}

TEST(DiskImageTest, LockGoesWithTheImageAndWithItsProcess) {
  const TempImage file(kSectorSize);
  static_cast<void>(file.open());
  static_cast<void>(file.open());
  int ready[2];
  ASSERT_EQ(::pipe(ready), 0);
  const Fd reader(ready[0]);
  Fd writer(ready[1]);
  const pid_t child = ::fork();
  if (child == 0) {
    const auto image = DiskImage::open({.path = file.path});
    const char told = image ? 'y' : 'n';
    if (::write(writer.get(), &told, 1) == 1) ::pause();
    ::_exit(1);
  }
  char told = 0;
  ASSERT_EQ(::read(reader.get(), &told, 1), 1);
  ASSERT_EQ(told, 'y');
  EXPECT_THAT(open_error({.path = file.path}), HasSubstr("locked by another process"));
  ::kill(child, SIGKILL);
  ASSERT_EQ(::waitpid(child, nullptr, 0), child);
  EXPECT_TRUE(file.open()->held());
}

TEST(DiskImageTest, HandsOverAndTakesBack) {
  const TempImage file(kSectorSize);
  const auto source = file.open();
  ASSERT_TRUE(source->release());
  EXPECT_FALSE(source->held());
  {
    const auto destination = file.open();
    const auto taken = source->reacquire();
    ASSERT_FALSE(taken);
    EXPECT_THAT(taken.error().message(), HasSubstr("locked by another process"));
    EXPECT_FALSE(source->held());
  }
  ASSERT_TRUE(source->reacquire());
  EXPECT_TRUE(source->held());
  EXPECT_THAT(open_error({.path = file.path}), HasSubstr("locked by another process"));
  // Both may be repeated.
  ASSERT_TRUE(source->reacquire());
  ASSERT_TRUE(source->release());
  ASSERT_TRUE(source->release());
}

TEST(DiskImageTest, TakesBackOnlyWhatItGaveUp) {
  const TempImage file(2 * kSectorSize);
  const auto image = file.open();
  ASSERT_TRUE(image->release());
  file.resize(kSectorSize);
  const auto taken = image->reacquire();
  ASSERT_FALSE(taken);
  EXPECT_THAT(taken.error().message(), HasSubstr("had 1024 bytes"));
  EXPECT_FALSE(image->held());
  // The lock was not kept.
  EXPECT_TRUE(file.open()->held());
}

TEST(DiskImageTest, IsPreparedWhileSomebodyElseHoldsItAndTakenAfterwards) {
  const TempImage file(2 * kSectorSize);
  auto owner = file.open();
  auto prepared = DiskImage::prepare({.path = file.path});
  ASSERT_TRUE(prepared) << prepared.error().message();
  const auto image = std::move(prepared).value();
  EXPECT_FALSE(image->held());
  EXPECT_FALSE(image->fd().valid());
  EXPECT_EQ(image->size(), 2 * kSectorSize);
  const auto refused = image->reacquire();
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().message(), HasSubstr("locked by another process"));
  owner.reset();
  ASSERT_TRUE(image->reacquire());
  EXPECT_TRUE(image->held());
  EXPECT_THAT(open_error({.path = file.path}), HasSubstr("locked by another process"));
}

TEST(DiskImageTest, PreparingChecksWhatOpeningChecks) {
  EXPECT_THAT(DiskImage::prepare({.path = "/nonexistent/image"}).error().message(),
              HasSubstr("cannot open disk image /nonexistent/image"));
  const TempImage odd(kSectorSize + 1);
  EXPECT_THAT(DiskImage::prepare({.path = odd.path}).error().message(),
              HasSubstr("multiple of 512"));
}

TEST(DiskImageTest, APreparedImageThatHasChangedItsSizeIsNotTaken) {
  const TempImage file(2 * kSectorSize);
  const auto image = std::move(DiskImage::prepare({.path = file.path})).value();
  file.resize(kSectorSize);
  const auto taken = image->reacquire();
  ASSERT_FALSE(taken);
  EXPECT_THAT(taken.error().message(), HasSubstr("had 1024 bytes"));
}

TEST(DiskImageTest, DirectKnowsTheAlignmentItNeeds) {
  const TempImage file(64 * 1024);
  const auto image = file.open(false, true);
  EXPECT_TRUE(image->direct());
  const TransferAlignment& alignment = image->alignment();
  EXPECT_GE(image->block_size(), kSectorSize);
  EXPECT_EQ(image->size() % alignment.block, 0U);
  // What is aligned like that is taken.
  alignas(4096) std::array<std::byte, 8192> buffer;
  EXPECT_EQ(::pread(image->fd().get(), buffer.data() + alignment.memory, alignment.block,
                    static_cast<off_t>(alignment.block)),
            static_cast<ssize_t>(alignment.block));
}

TEST(DiskImageTest, DirectRefusesAFileSystemWithoutIt) {
  // procfs files are regular, and not for direct I/O.
  EXPECT_THAT(open_error({.path = "/proc/version", .read_only = true, .direct = true}),
              HasSubstr("with direct I/O"));
}

}  // namespace
}  // namespace vmm
