#include "vmm/kernel_image.h"

#include <sys/stat.h>
#include <zlib.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <ostream>
#include <vector>

#include "vmm_support.h"

namespace vmm {
namespace {

constexpr std::size_t kRamSize = 1 << 20;
constexpr std::uint64_t kTextOffset = 0x1'0000;

template <typename T>
void put(std::string& image, std::size_t offset, T value) {
  std::memcpy(image.data() + offset, &value, sizeof value);
}

// An arm64 Image of this many bytes; the header says that it needs twice as many.
std::string make_image(std::size_t size, std::uint64_t text_offset = kTextOffset) {
  std::string image(size, '\0');
  for (std::size_t i = 64; i < size; ++i) image[i] = static_cast<char>(i * 7 >> 3);
  put<std::uint64_t>(image, 8, text_offset);
  put<std::uint64_t>(image, 16, 2 * size);
  image.replace(56, 4, "ARM\x64");
  return image;
}

// The same with a PE header, whose section ends with the file.
std::string make_efi_image(std::size_t size) {
  std::string image = make_image(size);
  put<std::uint32_t>(image, 60, 0x40);
  image.replace(0x40, 4, std::string("PE\0\0", 4));
  put<std::uint16_t>(image, 0x46, 1);  // sections
  put<std::uint16_t>(image, 0x54, 0);  // bytes of the optional header
  put<std::uint32_t>(image, 0x58 + 16, static_cast<std::uint32_t>(size - 0x100));
  put<std::uint32_t>(image, 0x58 + 20, 0x100);
  return image;
}

std::string gzip(const std::string& data) {
  z_stream zlib{};
  constexpr int kGzip = MAX_WBITS + 16;
  if (deflateInit2(&zlib, 6, Z_DEFLATED, kGzip, 8, Z_DEFAULT_STRATEGY) != Z_OK) std::abort();
  std::string out(compressBound(static_cast<uLong>(data.size())) + 64, '\0');
  std::string input = data;
  zlib.next_in = reinterpret_cast<Bytef*>(input.data());
  zlib.avail_in = static_cast<uInt>(data.size());
  zlib.next_out = reinterpret_cast<Bytef*>(out.data());
  zlib.avail_out = static_cast<uInt>(out.size());
  if (deflate(&zlib, Z_FINISH) != Z_STREAM_END) std::abort();
  out.resize(zlib.total_out);
  deflateEnd(&zlib);
  return out;
}

class KernelImageTest : public ::testing::Test {
 protected:
  Result<LoadedKernel> load(const std::string& contents) {
    ram_.assign(kRamSize, std::byte{0});
    return load_kernel(dir_.file("Image", contents), ram_);
  }
  void expect_refused(const std::string& contents, std::string_view words) {
    expect_error(load(contents), ErrorKind::kUsage, words);
  }
  void expect_loaded(const std::string& contents, const std::string& image) {
    const auto kernel = load(contents);
    ASSERT_TRUE(kernel) << kernel.error().message();
    EXPECT_EQ(kernel.value().entry, kTextOffset);
    EXPECT_EQ(kernel.value().end, kTextOffset + 2 * image.size());
    const auto ram = std::span<const std::byte>(ram_);
    EXPECT_TRUE(text_of(ram.subspan(kTextOffset, image.size())) == image);
    const auto is_zero = [](std::span<const std::byte> bytes) {
      return std::ranges::all_of(bytes, [](std::byte byte) { return byte == std::byte{0}; });
    };
    EXPECT_TRUE(is_zero(ram.first(kTextOffset)));
    EXPECT_TRUE(is_zero(ram.subspan(kTextOffset + image.size())));
  }

  TempDir dir_;
  std::vector<std::byte> ram_;
};

TEST_F(KernelImageTest, RawImagesGoToTheirTextOffset) {
  const auto image = make_image(100'000);
  expect_loaded(image, image);
}

TEST_F(KernelImageTest, GzipImagesGoToTheirTextOffset) {
  for (const std::size_t size : {64U, 65U, 5000U, 300'000U}) {
    const auto image = make_image(size);
    expect_loaded(gzip(image), image);
  }
}

TEST_F(KernelImageTest, BytesBehindTheCompressedDataDoNotMatter) {
  const auto image = make_image(5000);
  expect_loaded(gzip(image) + "padding", image);
}

TEST_F(KernelImageTest, FilesThatAreNoKernelSayWhatTheyAre) {
  struct Case {
    const char* words;
    std::size_t offset;
    std::string magic;
  };
  for (const auto& [words, offset, magic] :
       {Case{"an ELF file", 0,
             "\x7f"
             "ELF"},
        Case{"an x86 kernel", 0x202, "HdrS"}, Case{"a RISC-V kernel", 56, "RSC\x05"},
        Case{"self-extracting EFI image", 4, "zimg"}, Case{"something else", 0, "#!/bin/sh"}}) {
    std::string file(4096, '\0');
    file.replace(offset, magic.size(), magic);
    expect_refused(file, "is not an arm64 Linux Image but ");
    expect_refused(file, words);
  }
  expect_refused(gzip(std::string(4096, 'x')), "is not an arm64 Linux Image");
}

struct Hostile {
  const char* name;
  std::function<void(std::string&)> change;
  const char* words;
  // In the names of the tests, instead of the bytes of this.
  friend std::ostream& operator<<(std::ostream& out, const Hostile& hostile) {
    return out << hostile.name;
  }
};

class HostileHeaderTest : public KernelImageTest, public ::testing::WithParamInterface<Hostile> {};

TEST_P(HostileHeaderTest, IsRefusedRawAndZipped) {
  auto image = make_image(5000);
  GetParam().change(image);
  expect_refused(image, GetParam().words);
  expect_refused(gzip(image), GetParam().words);
}

std::function<void(std::string&)> field(std::size_t offset, std::uint64_t value) {
  return [offset, value](std::string& image) { put(image, offset, value); };
}

INSTANTIATE_TEST_SUITE_P(
    All, HostileHeaderTest,
    ::testing::Values(Hostile{"big_endian", field(24, 1), "is big-endian"},
                      Hostile{"old", field(16, 0), "does not say its size"},
                      Hostile{"size_of_ram_and_more", field(16, kRamSize - kTextOffset + 1),
                              "needs"},
                      Hostile{"largest_size", field(16, ~0ULL), "needs"},
                      Hostile{"overflowing_sum", field(16, ~0ULL - kTextOffset + 1), "needs"},
                      Hostile{"large_offset", field(8, 2 << 20), "needs"},
                      Hostile{"largest_offset", field(8, ~0ULL), "needs"},
                      Hostile{"negative_offset", field(8, ~0ULL - 4096), "needs"},
                      Hostile{"no_magic", field(56, 0), "is not an arm64 Linux Image"}),
    [](const auto& test) { return test.param.name; });

TEST_F(KernelImageTest, AnImageThatJustFitsIsTaken) {
  auto image = make_image(5000);
  put<std::uint64_t>(image, 16, kRamSize - kTextOffset);
  for (const auto& file : {image, gzip(image)}) {
    const auto kernel = load(file);
    ASSERT_TRUE(kernel) << kernel.error().message();
    EXPECT_EQ(kernel.value().end, kRamSize);
  }
}

TEST_F(KernelImageTest, MoreBytesThanRamAreRefusedWhateverTheHeaderSays) {
  auto image = make_image(kRamSize - kTextOffset + 1);
  put<std::uint64_t>(image, 16, 4096);
  expect_refused(image, "does not fit into the guest's memory");
  expect_refused(gzip(image), "does not fit into the guest's memory");
}

TEST_F(KernelImageTest, ATruncatedEfiImageIsRefused) {
  const auto image = make_efi_image(5000);
  EXPECT_TRUE(load(image));
  EXPECT_TRUE(load(gzip(image)));
  for (const std::size_t size : {4999U, 4096U, 1000U}) {
    const auto cut = image.substr(0, size);
    expect_refused(cut, fmt::format("is truncated: {} bytes of 5000 are there", size));
    expect_refused(gzip(cut), fmt::format("is truncated: {} bytes of 5000 are there", size));
  }
}

TEST_F(KernelImageTest, HostileEfiHeadersAreNotFollowedOutOfTheFile) {
  struct Case {
    std::size_t offset;
    std::uint32_t value;
  };
  for (const auto& [offset, value] :
       {Case{60, 0xffff'ffff}, Case{60, 4999}, Case{60, 4976}, Case{60, 4980}, Case{60, 1},
        Case{0x44, 0xffff'0000}, Case{0x54, 0xffff}, Case{0x54, 4880}}) {
    auto image = make_efi_image(5000);
    put(image, offset, value);
    EXPECT_TRUE(load(image)) << offset << ", " << value;  // no such header, so nothing to check
  }
  auto image = make_efi_image(5000);
  put<std::uint32_t>(image, 0x58 + 16, 0xffff'ffff);
  put<std::uint32_t>(image, 0x58 + 20, 0xffff'ffff);
  expect_refused(image, "is truncated: 5000 bytes of 8589934590");
}

TEST_F(KernelImageTest, TinyFilesAreRefused) {
  const auto image = make_image(5000);
  const auto zipped = gzip(image);
  for (std::size_t size = 0; size < 64; ++size) {
    expect_refused(image.substr(0, size), "is truncated");
    expect_refused(std::string(size, '\0'), "is truncated");
    expect_refused(gzip(image.substr(0, size)), "is truncated");
    expect_refused(zipped.substr(0, size), "is truncated");
  }
  expect_refused(std::string(64, '\0'), "is not an arm64 Linux Image");
}

TEST_F(KernelImageTest, TruncatedGzipDataIsRefused) {
  const auto zipped = gzip(make_image(300'000));
  for (const std::size_t lost : {1U, 4U, 8U, 9U, 100U, 1000U}) {
    ASSERT_LT(lost, zipped.size());
    expect_refused(zipped.substr(0, zipped.size() - lost), "is truncated");
  }
}

TEST_F(KernelImageTest, DamagedGzipDataIsRefused) {
  const auto zipped = gzip(make_image(300'000));
  struct Case {
    const char* what;
    std::size_t from_end;
  };
  for (const auto& [what, from_end] :
       {Case{"length", 1}, Case{"checksum", 5}, Case{"end of data", 9}, Case{"data", 500}}) {
    auto damaged = zipped;
    auto& byte = damaged[damaged.size() - from_end];
    byte = static_cast<char>(byte ^ 0x55);
    const auto kernel = load(damaged);
    ASSERT_FALSE(kernel) << what;
    EXPECT_EQ(kernel.error().kind(), ErrorKind::kUsage) << kernel.error().message();
  }
  auto method = zipped;
  method[2] = 7;  // deflate is 8
  expect_refused(method, "is damaged");
}

TEST_F(KernelImageTest, WhatIsNoRegularFileIsRefusedWithoutWaiting) {
  ram_.resize(kRamSize);
  expect_error(load_kernel(dir_ / "none", ram_), ErrorKind::kUsage, "No such file");
  expect_error(load_kernel(dir_.path(), ram_), ErrorKind::kUsage, "not a regular file");
  ASSERT_EQ(::mkfifo((dir_ / "fifo").c_str(), 0600), 0);
  expect_error(load_kernel(dir_ / "fifo", ram_), ErrorKind::kUsage, "not a regular file");
}

}  // namespace
}  // namespace vmm
