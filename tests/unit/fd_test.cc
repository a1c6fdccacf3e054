#include "base/fd.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <utility>

namespace vmm {
namespace {

bool is_open(int fd) {
  return ::fcntl(fd, F_GETFD) >= 0;
}

// A folder of its own for each test, gone afterwards.
class FdTest : public ::testing::Test {
 protected:
  FdTest() {
    std::string name = std::filesystem::temp_directory_path() / "vmm-fd-XXXXXX";
    folder_ = ::mkdtemp(name.data());
  }
  ~FdTest() override { std::filesystem::remove_all(folder_); }
  std::string path(const std::string& name) const { return folder_ / name; }
  std::string file(const std::string& name, const std::string& text) const {
    std::ofstream(path(name)) << text;
    return path(name);
  }

  std::filesystem::path folder_;
};

std::pair<Fd, Fd> make_pipe() {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) std::abort();
  return {Fd(ends[0]), Fd(ends[1])};
}

TEST_F(FdTest, ClosesItsDescriptorOnce) {
  int raw = -1;
  {
    const Fd fd = open_file("/dev/null", O_RDONLY).value();
    raw = fd.get();
    EXPECT_TRUE(is_open(raw));
  }
  EXPECT_FALSE(is_open(raw));
}

TEST_F(FdTest, MovesOwnership) {
  Fd first = open_file("/dev/null", O_RDONLY).value();
  const int raw = first.get();
  Fd second = std::move(first);
  EXPECT_FALSE(first.valid());  // NOLINT(bugprone-use-after-move)
  EXPECT_EQ(second.get(), raw);
  const int other = [&] {
    Fd third = open_file("/dev/null", O_RDONLY).value();
    const int replaced = second.get();
    third = std::move(second);
    EXPECT_EQ(third.get(), replaced);
    return third.get();
  }();
  EXPECT_FALSE(is_open(other));
}

TEST_F(FdTest, ReleasesItsDescriptorToTheCaller) {
  Fd fd = open_file("/dev/null", O_RDONLY).value();
  const int raw = fd.release();
  EXPECT_FALSE(fd.valid());
  EXPECT_TRUE(is_open(raw));
  const Fd owner(raw);
}

TEST_F(FdTest, OpensFilesWithCloseOnExec) {
  const Fd fd = open_file("/dev/null", O_RDONLY).value();
  EXPECT_NE(::fcntl(fd.get(), F_GETFD) & FD_CLOEXEC, 0);
}

TEST_F(FdTest, NamesTheFileThatCannotBeOpened) {
  const auto fd = open_file(path("none"), O_RDONLY, 0600, ErrorKind::kUsage);
  ASSERT_FALSE(fd);
  EXPECT_EQ(fd.error().message(), "cannot open " + path("none") + ": No such file or directory");
  EXPECT_EQ(fd.error().kind(), ErrorKind::kUsage);
}

TEST_F(FdTest, ReadsAcrossShortTransfers) {
  auto [out, in] = make_pipe();
  std::thread writer([&in = in] {
    for (const char* part : {"ab", "c", "def"}) {
      ASSERT_TRUE(write_all(in, std::as_bytes(std::span(std::string_view(part))), "pipe"));
      std::this_thread::yield();
    }
  });
  std::array<char, 6> text{};
  EXPECT_TRUE(read_exact(out, std::as_writable_bytes(std::span(text)), "pipe"));
  writer.join();
  EXPECT_EQ(std::string(text.data(), text.size()), "abcdef");
}

TEST_F(FdTest, WritesMoreThanAPipeHolds) {
  auto [out, in] = make_pipe();
  std::vector<std::byte> sent(1 << 20);
  for (std::size_t i = 0; i < sent.size(); ++i) sent[i] = static_cast<std::byte>(i % 251);
  std::thread writer([&in = in, &sent] { EXPECT_TRUE(write_all(in, sent, "pipe")); });
  std::vector<std::byte> got(sent.size());
  EXPECT_TRUE(read_exact(out, got, "pipe"));
  writer.join();
  EXPECT_EQ(got, sent);
}

TEST_F(FdTest, SaysHowMuchOfATruncatedFileIsThere) {
  const std::string name = file("short", "abc");
  const Fd fd = open_file(name, O_RDONLY).value();
  std::array<std::byte, 8> data{};
  const auto result = read_exact(fd, data, name);
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().message(), name + " is truncated: 3 bytes of 8 are there");
}

TEST_F(FdTest, ReportsFailedTransfers) {
  const Fd read_only = open_file("/dev/null", O_RDONLY).value();
  const Fd write_only = open_file("/dev/null", O_WRONLY).value();
  std::array<std::byte, 1> data{};
  EXPECT_EQ(write_all(read_only, data, "null").error().system_errno(), EBADF);
  EXPECT_EQ(read_exact(write_only, data, "null").error().system_errno(), EBADF);
}

TEST_F(FdTest, ReadsWholeFilesUpToALimit) {
  const std::string text(100'000, 'x');
  const std::string name = file("text", text);
  EXPECT_EQ(read_file(name, 100'000).value(), text);
  EXPECT_EQ(read_file(file("empty", ""), 0).value(), "");
  const auto refused = read_file(name, 99'999);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().message(), name + " is larger than the 99999 bytes allowed");
  EXPECT_EQ(read_file(path("none"), 10).error().system_errno(), ENOENT);
  EXPECT_EQ(read_file(folder_, 10).error().system_errno(), EISDIR);
}

TEST_F(FdTest, EventfdCountsSignalsAndNeverBlocks) {
  const Fd fd = make_eventfd().value();
  std::uint64_t value = 0;
  EXPECT_EQ(::read(fd.get(), &value, sizeof value), -1);
  EXPECT_EQ(errno, EAGAIN);
  signal_eventfd(fd);
  signal_eventfd(fd);
  ASSERT_EQ(::read(fd.get(), &value, sizeof value), 8);
  EXPECT_EQ(value, 2u);
  value = ~std::uint64_t{0} - 1;
  ASSERT_EQ(::write(fd.get(), &value, sizeof value), 8);
  signal_eventfd(fd);  // full: nothing to add
}

}  // namespace
}  // namespace vmm
