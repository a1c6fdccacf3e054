#include "base/bytes.h"

#include <gtest/gtest.h>

namespace vmm {
namespace {

TEST(BytesTest, ReadsBackWhatWasWritten) {
  ByteWriter writer;
  writer.put<std::uint8_t>(0x12);
  writer.put<std::uint64_t>(0x1122334455667788);
  writer.put_bool(true);
  writer.put_string("disk");

  ByteReader reader(writer.bytes());
  EXPECT_EQ(reader.get<std::uint8_t>().value(), 0x12);
  EXPECT_EQ(reader.get<std::uint64_t>().value(), 0x1122334455667788u);
  EXPECT_TRUE(reader.get_bool().value());
  EXPECT_EQ(reader.get_string(16).value(), "disk");
  EXPECT_TRUE(reader.expect_end());
}

TEST(BytesTest, RefusesReadBeyondTheEnd) {
  const std::byte three[3] = {};
  ByteReader reader(three);
  const auto result = reader.get<std::uint32_t>();
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().message(), "data ends at byte 3, 1 more are expected");
}

TEST(BytesTest, RefusesLengthBeyondTheCap) {
  ByteWriter writer;
  writer.put<std::uint32_t>(0xffffffff);
  ByteReader reader(writer.bytes());
  EXPECT_FALSE(reader.get_blob(1024));
}

TEST(BytesTest, RefusesLengthBeyondTheInput) {
  ByteWriter writer;
  writer.put<std::uint32_t>(8);
  writer.put<std::uint32_t>(0);
  ByteReader reader(writer.bytes());
  EXPECT_FALSE(reader.get_blob(1024));
}

TEST(BytesTest, RefusesBoolThatIsNeitherZeroNorOne) {
  const std::byte two[1] = {std::byte{2}};
  EXPECT_FALSE(ByteReader(two).get_bool());
}

TEST(BytesTest, RefusesTrailingBytes) {
  const std::byte one[1] = {};
  EXPECT_FALSE(ByteReader(one).expect_end());
}

}  // namespace
}  // namespace vmm
