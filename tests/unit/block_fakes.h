#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/fd.h"
#include "devices/disk_image.h"
#include "devices/io_engine.h"

// Disk images and an engine for tests of the block device.
namespace vmm {

// A file that goes with the test.
class TempImage {
 public:
  explicit TempImage(std::uint64_t size) {
    fd_ = Fd(::mkstemp(path.data()));
    EXPECT_TRUE(fd_.valid());
    EXPECT_EQ(::ftruncate(fd_.get(), static_cast<off_t>(size)), 0);
  }
  ~TempImage() { ::unlink(path.c_str()); }
  TempImage(const TempImage&) = delete;
  TempImage& operator=(const TempImage&) = delete;

  void write(std::uint64_t offset, std::string_view text) const {
    ASSERT_EQ(::pwrite(fd_.get(), text.data(), text.size(), static_cast<off_t>(offset)),
              static_cast<ssize_t>(text.size()));
  }
  [[nodiscard]] std::string read(std::uint64_t offset, std::size_t size) const {
    std::string text(size, '\0');
    EXPECT_EQ(::pread(fd_.get(), text.data(), size, static_cast<off_t>(offset)),
              static_cast<ssize_t>(size));
    return text;
  }
  // Bytes that the file takes up on its file system.
  [[nodiscard]] std::uint64_t allocated() const {
    struct stat status {};
    EXPECT_EQ(::fstat(fd_.get(), &status), 0);
    return static_cast<std::uint64_t>(status.st_blocks) * 512;
  }
  void resize(std::uint64_t size) const {
    ASSERT_EQ(::ftruncate(fd_.get(), static_cast<off_t>(size)), 0);
  }
  [[nodiscard]] std::unique_ptr<DiskImage> open(bool read_only = false, bool direct = false) const {
    auto image = DiskImage::open({.path = path, .read_only = read_only, .direct = direct});
    EXPECT_TRUE(image) << image.error().message();
    return std::move(image).value();
  }

  std::string path = ::testing::TempDir() + "vmm-image-XXXXXX";

 private:
  Fd fd_;
};

// An engine whose calls end when the test says so and as it says.
class FakeEngine final : public IoEngine {
 public:
  FakeEngine() : ready_(make_eventfd().value()) {}

  void add(IoCall& call) override { added.push_back(&call); }
  void submit() override {
    if (added.empty()) return;
    ++submits;
    started.insert(started.end(), added.begin(), added.end());
    added.clear();
    if (!hold) {
      while (!started.empty()) end();
    }
  }
  std::size_t reap(std::span<IoCall*> done) override {
    std::uint64_t count = 0;
    EXPECT_TRUE(::read(ready_.get(), &count, sizeof count) > 0 || errno == EAGAIN);
    std::size_t taken = 0;
    while (taken < done.size() && !done_.empty()) {
      done[taken++] = done_.front();
      done_.pop_front();
    }
    if (!done_.empty()) signal_eventfd(ready_);
    return taken;
  }
  void wait() override {
    if (done_.empty()) end();
  }
  [[nodiscard]] const Fd& ready_fd() const override { return ready_; }

  // Ends the call started first (or at `index`), as `on_call` or the file says.
  void end(std::size_t index = 0) {
    ASSERT_LT(index, started.size());
    IoCall& call = *started[index];
    started.erase(started.begin() + static_cast<std::ptrdiff_t>(index));
    call.result = on_call ? on_call(call) : make_call(call);
    done_.push_back(&call);
    signal_eventfd(ready_);
  }

  static std::int32_t make_call(const IoCall& call) {
    const auto offset = static_cast<off_t>(call.offset);
    const auto count = static_cast<int>(call.buffers.size());
    ssize_t result = 0;
    switch (call.kind) {
      case IoCall::Kind::kRead:
        result = ::preadv(call.fd, call.buffers.data(), count, offset);
        break;
      case IoCall::Kind::kWrite:
        result = ::pwritev(call.fd, call.buffers.data(), count, offset);
        break;
      case IoCall::Kind::kDataSync:
        break;
      case IoCall::Kind::kAllocate:
        result = ::fallocate(call.fd, call.flags, offset, static_cast<off_t>(call.length));
        break;
    }
    return static_cast<std::int32_t>(result < 0 ? -errno : result);
  }

  std::function<std::int32_t(const IoCall&)> on_call;
  bool hold = false;  // calls stay under way until end()
  int submits = 0;
  std::vector<IoCall*> added;
  std::vector<IoCall*> started;

 private:
  Fd ready_;
  std::deque<IoCall*> done_;
};

}  // namespace vmm
