#include "devices/image_io.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/falloc.h>

#include <array>
#include <cerrno>

#include "block_fakes.h"

namespace vmm {
namespace {

using Operation = ImageRequest::Operation;
using ::testing::ElementsAre;

class ImageIoTest : public ::testing::Test {
 protected:
  explicit ImageIoTest(bool direct = false) : image(file.open(false, direct)) {
    auto engine = std::make_unique<FakeEngine>();
    fake = engine.get();
    io = std::make_unique<ImageIo>(*image, std::move(engine));
  }
  static void fill(ImageRequest& request, Operation operation, std::uint64_t start,
                   std::span<char> memory) {
    request.operation = operation;
    request.start = start;
    request.size = memory.size();
    request.parts.assign(1, {memory.data(), memory.size()});
  }
  // Runs a request to its end and returns its error.
  int run(ImageRequest& request) const {
    io->start(request);
    io->submit();
    std::vector<ImageRequest*> done;
    io->reap(done);
    while (done.empty()) {
      io->wait();
      io->reap(done);
    }
    EXPECT_THAT(done, ElementsAre(&request));
    EXPECT_EQ(io->under_way(), 0U);
    return request.error;
  }
  int zero(std::uint64_t start, std::uint64_t size, bool unmap, bool durable = false) const {
    ImageRequest request;
    request.operation = Operation::kWriteZeroes;
    request.start = start;
    request.size = size;
    request.unmap = unmap;
    request.durable = durable;
    return run(request);
  }

  TempImage file{8 << 20};
  std::unique_ptr<DiskImage> image;
  FakeEngine* fake;
  std::unique_ptr<ImageIo> io;
};

// Lets a call through for at most `most` bytes.
std::int32_t shortened(const IoCall& call, std::size_t most) {
  IoCall part = call;
  std::vector<iovec> parts;
  for (const iovec& whole : call.buffers) {
    parts.push_back({whole.iov_base, std::min(whole.iov_len, most)});
    most -= parts.back().iov_len;
  }
  part.buffers = parts;
  return FakeEngine::make_call(part);
}

TEST_F(ImageIoTest, GoesOnAfterShortTransfers) {
  std::string text(3000, '\0');
  for (std::size_t i = 0; i < text.size(); ++i) text[i] = static_cast<char>(i * 7);
  fake->on_call = [](const IoCall& call) { return shortened(call, 700); };
  ImageRequest request;
  std::string memory = text;
  fill(request, Operation::kWrite, 4096, memory);
  // Parts that end within, at and beyond a short transfer.
  request.parts = {{memory.data(), 100}, {memory.data() + 100, 600}, {memory.data() + 700, 2300}};
  EXPECT_EQ(run(request), 0);
  EXPECT_EQ(file.read(4096, 3000), text);
  std::string back(3000, ' ');
  fill(request, Operation::kRead, 4096, back);
  request.parts = {{back.data(), 1}, {back.data() + 1, 2999}};
  EXPECT_EQ(run(request), 0);
  EXPECT_EQ(back, text);
}

TEST_F(ImageIoTest, RepeatsInterruptedCalls) {
  int calls = 0;
  fake->on_call = [&](const IoCall& call) {
    return ++calls < 3 ? -EINTR : FakeEngine::make_call(call);
  };
  std::string memory = "text";
  ImageRequest request;
  fill(request, Operation::kWrite, 0, memory);
  EXPECT_EQ(run(request), 0);
  EXPECT_EQ(calls, 3);
  EXPECT_EQ(file.read(0, 4), "text");
}

TEST_F(ImageIoTest, ReportsErrorsAlsoInTheMiddle) {
  std::string memory(1000, 'x');
  ImageRequest request;
  for (const int error : {EIO, ENOSPC, EFBIG}) {
    int calls = 0;
    fake->on_call = [&](const IoCall& call) {
      return ++calls == 2 ? -error : shortened(call, 100);
    };
    fill(request, Operation::kWrite, 0, memory);
    EXPECT_EQ(run(request), error);
    EXPECT_EQ(calls, 2);
  }
  fake->on_call = [](const IoCall&) { return -EIO; };
  request.operation = Operation::kFlush;
  EXPECT_EQ(run(request), EIO);
  request.operation = Operation::kDiscard;
  EXPECT_EQ(run(request), EIO);
  EXPECT_EQ(zero(0, 4096, false), EIO);
}

TEST_F(ImageIoTest, ReadBeyondAShrunkImageIsAnError) {
  std::string memory(1024, 'x');
  file.resize(512);
  ImageRequest request;
  fill(request, Operation::kRead, 0, memory);
  EXPECT_EQ(run(request), EIO);
}

TEST_F(ImageIoTest, NothingToDoIsDoneAtOnce) {
  ImageRequest request;
  fill(request, Operation::kWrite, 0, {});
  request.parts.clear();
  EXPECT_EQ(run(request), 0);
  EXPECT_EQ(fake->submits, 0);
}

TEST_F(ImageIoTest, ReleasedImageIsLeftAlone) {
  ASSERT_TRUE(image->release());
  std::string memory(512, 'x');
  ImageRequest request;
  fill(request, Operation::kWrite, 0, memory);
  EXPECT_EQ(run(request), EIO);
  EXPECT_EQ(fake->submits, 0);
  ASSERT_TRUE(image->reacquire());
  fill(request, Operation::kWrite, 0, memory);
  EXPECT_EQ(run(request), 0);
}

TEST_F(ImageIoTest, DurableWritesAreSynchronous) {
  std::vector<int> flags;
  fake->on_call = [&](const IoCall& call) {
    flags.push_back(call.flags);
    return FakeEngine::make_call(call);
  };
  std::string memory(512, 'x');
  ImageRequest request;
  fill(request, Operation::kWrite, 0, memory);
  EXPECT_EQ(run(request), 0);
  fill(request, Operation::kWrite, 0, memory);
  request.durable = true;
  EXPECT_EQ(run(request), 0);
  EXPECT_THAT(flags, ElementsAre(0, RWF_DSYNC));
}

TEST_F(ImageIoTest, DurableZeroesAreFollowedByASync) {
  std::vector<IoCall::Kind> kinds;
  fake->on_call = [&](const IoCall& call) {
    kinds.push_back(call.kind);
    return FakeEngine::make_call(call);
  };
  EXPECT_EQ(zero(0, 4096, true, true), 0);
  EXPECT_THAT(kinds, ElementsAre(IoCall::Kind::kAllocate, IoCall::Kind::kDataSync));
}

TEST_F(ImageIoTest, WritesZeroesWhereTheFileSystemKnowsNoBetter) {
  file.write(0, std::string(4 << 20, 'z'));
  std::vector<int> modes;
  std::size_t writes = 0;
  fake->on_call = [&](const IoCall& call) {
    if (call.kind == IoCall::Kind::kAllocate) {
      modes.push_back(call.flags & ~FALLOC_FL_KEEP_SIZE);
      return -EOPNOTSUPP;
    }
    ++writes;
    return shortened(call, 1000 * 1000);
  };
  // Not a multiple of what is written at once.
  constexpr std::uint64_t kSize = (2 << 20) + 512;
  EXPECT_EQ(zero(1024, kSize, true), 0);
  EXPECT_THAT(modes, ElementsAre(FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE));
  EXPECT_EQ(writes, 3U);
  EXPECT_EQ(file.read(1024, kSize), std::string(kSize, '\0'));
  EXPECT_EQ(file.read(0, 1024), std::string(1024, 'z'));
  EXPECT_EQ(file.read(1024 + kSize, 512), std::string(512, 'z'));
  // What was refused is not tried again.
  EXPECT_EQ(zero(0, 512, true), 0);
  EXPECT_EQ(modes.size(), 2U);
}

TEST_F(ImageIoTest, DiscardThatTheFileSystemRefusesIsAHint) {
  int calls = 0;
  fake->on_call = [&](const IoCall&) {
    ++calls;
    return -EOPNOTSUPP;
  };
  ImageRequest request;
  request.operation = Operation::kDiscard;
  request.size = 4096;
  EXPECT_EQ(run(request), 0);
  EXPECT_EQ(run(request), 0);
  EXPECT_EQ(calls, 1);
}

TEST_F(ImageIoTest, ZeroesWithoutUnmapKeepTheSpace) {
  std::vector<int> modes;
  fake->on_call = [&](const IoCall& call) {
    modes.push_back(call.flags);
    return 0;
  };
  EXPECT_EQ(zero(0, 4096, false), 0);
  EXPECT_THAT(modes, ElementsAre(FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE));
}

TEST_F(ImageIoTest, AbandonWaitsForCallsAndStartsNoOthers) {
  fake->hold = true;
  std::vector<IoCall::Kind> kinds;
  fake->on_call = [&](const IoCall& call) {
    kinds.push_back(call.kind);
    return shortened(call, 512);
  };
  std::string memory(1024, 'x');
  std::array<ImageRequest, 3> requests;
  for (ImageRequest& request : requests) {
    fill(request, Operation::kWrite, 0, memory);
    io->start(request);
  }
  io->submit();
  io->abandon();
  EXPECT_EQ(io->under_way(), 0U);
  EXPECT_TRUE(fake->started.empty());
  EXPECT_EQ(kinds.size(), 3U);
  std::vector<ImageRequest*> done;
  io->reap(done);
  EXPECT_TRUE(done.empty());
  // And it goes on with others.
  fake->on_call = nullptr;
  fake->hold = false;
  fill(requests[0], Operation::kWrite, 0, memory);
  EXPECT_EQ(run(requests[0]), 0);
}

class DirectImageIoTest : public ImageIoTest {
 protected:
  DirectImageIoTest() : ImageIoTest(true) {
    // The real alignment of the test's file system is enforced here, so that a miss shows anywhere.
    fake->on_call = [this](const IoCall& call) {
      const TransferAlignment& alignment = image->alignment();
      std::uint64_t bits = call.offset % alignment.block;
      for (const iovec& part : call.buffers) {
        bits |= reinterpret_cast<std::uintptr_t>(part.iov_base) % alignment.memory;
        bits |= part.iov_len % alignment.block;
      }
      if (bits != 0) return -EINVAL;
      ++calls;
      return FakeEngine::make_call(call);
    };
  }
  std::size_t block() const { return image->block_size(); }
  int calls = 0;
  alignas(4096) std::array<char, 1 << 20> memory{};
};

TEST_F(DirectImageIoTest, AlignedMemoryIsUsedAsItIs) {
  memory.fill('a');
  ImageRequest request;
  fill(request, Operation::kWrite, 0, std::span(memory).first(64 * block()));
  EXPECT_EQ(run(request), 0);
  EXPECT_EQ(calls, 1);
  EXPECT_EQ(file.read(0, block()), std::string(block(), 'a'));
}

TEST_F(DirectImageIoTest, OtherMemoryIsCopiedPieceByPiece) {
  const std::size_t size = (700 * 1024) / block() * block();
  for (std::size_t i = 0; i < size; ++i) memory[1 + i] = static_cast<char>(i * 31 >> 3);
  const std::string text(memory.data() + 1, size);
  ImageRequest request;
  fill(request, Operation::kWrite, block(), std::span(memory).subspan(1, size));
  request.parts = {{memory.data() + 1, 77}, {memory.data() + 78, size - 77}};
  EXPECT_EQ(run(request), 0);
  EXPECT_EQ(calls, 3);
  EXPECT_EQ(file.read(block(), size), text);

  memory.fill(' ');
  fill(request, Operation::kRead, block(), std::span(memory).subspan(3, size));
  request.parts = {{memory.data() + 3, size - 5}, {memory.data() + size - 2, 5}};
  EXPECT_EQ(run(request), 0);
  EXPECT_EQ(std::string(memory.data() + 3, size), text);
  EXPECT_EQ(memory[2], ' ');
  EXPECT_EQ(memory[3 + size], ' ');
}

TEST_F(DirectImageIoTest, RequestsTakeTurnsWithTheBounceBuffer) {
  fake->hold = true;
  constexpr std::size_t kRequests = 5;
  std::array<ImageRequest, kRequests> requests;
  for (std::size_t i = 0; i < kRequests; ++i) {
    const auto part = std::span(memory).subspan(1 + i * 2 * block(), block());
    std::ranges::fill(part, static_cast<char>('0' + i));
    fill(requests[i], Operation::kWrite, i * block(), part);
    io->start(requests[i]);
  }
  io->submit();
  std::vector<ImageRequest*> done;
  while (done.size() < kRequests) {
    ASSERT_EQ(fake->started.size(), 1U) << "there is one buffer";
    fake->end();
    io->reap(done);
  }
  for (std::size_t i = 0; i < kRequests; ++i) {
    EXPECT_EQ(done[i], &requests[i]);
    EXPECT_EQ(done[i]->error, 0);
    EXPECT_EQ(file.read(i * block(), block()), std::string(block(), static_cast<char>('0' + i)));
  }
  // Those that wait are dropped, too.
  for (std::size_t i = 0; i < kRequests; ++i) {
    fill(requests[i], Operation::kWrite, 0, std::span(memory).subspan(1, block()));
    io->start(requests[i]);
  }
  io->submit();
  io->abandon();
  EXPECT_EQ(io->under_way(), 0U);
}

TEST_F(DirectImageIoTest, ZeroesAreWrittenFromAlignedMemory) {
  memory.fill('z');
  ImageRequest request;
  fill(request, Operation::kWrite, 0, memory);
  ASSERT_EQ(run(request), 0);
  const auto aligned = fake->on_call;
  fake->on_call = [&](const IoCall& call) {
    return call.kind == IoCall::Kind::kAllocate ? -EOPNOTSUPP : aligned(call);
  };
  EXPECT_EQ(zero(block(), 70 * block(), false), 0);
  EXPECT_EQ(file.read(block(), 70 * block()), std::string(70 * block(), '\0'));
  EXPECT_EQ(file.read(71 * block(), 1), "z");
}

}  // namespace
}  // namespace vmm
