#include "migration/ram_record.h"

#include <gtest/gtest.h>

namespace vmm::migration {
namespace {

constexpr std::uint64_t kPages = 1000;

TEST(RamRecordTest, EveryRecordComesOutAsItWentInAndNoBitIsIgnored) {
  const Record records[] = {{RecordType::kPages, {744, kChunkPages}, 0},
                            {RecordType::kZero, {0, kPages}, 0},
                            {RecordType::kHole, {999, 1}, 0},
                            {RecordType::kRoundEnd, {}, 3}};
  for (const Record& record : records) {
    auto header = encode_record(record);
    EXPECT_EQ(decode_record(header, kPages).value(), record);
    for (std::size_t bit = 0; bit < header.size() * 8; ++bit) {
      const auto mask = std::byte{1} << static_cast<int>(bit % 8);
      header[bit / 8] ^= mask;
      if (const auto decoded = decode_record(header, kPages)) {
        EXPECT_NE(decoded.value(), record);
        EXPECT_EQ(encode_record(decoded.value()), header);
        EXPECT_LE(decoded.value().pages.first + decoded.value().pages.count, kPages);
      }
      header[bit / 8] ^= mask;
    }
  }
}

TEST(RamRecordTest, RangesBeyondTheGuestAreRefused) {
  constexpr std::uint64_t kHuge = ~std::uint64_t{0};
  const PageRange ranges[] = {{0, 0},         {0, kPages + 1}, {kPages, 1}, {kPages - 1, 2},
                              {kHuge, 1},     {kHuge, 2},      {1, kHuge},  {2, kHuge - 1},
                              {kHuge, kHuge}, {0, kHuge}};
  for (const PageRange range : ranges) {
    for (const auto type : {RecordType::kPages, RecordType::kZero, RecordType::kHole}) {
      EXPECT_FALSE(decode_record(encode_record({type, range, 0}), kPages))
          << to_string(type) << " " << range.first << " " << range.count;
    }
  }
  EXPECT_FALSE(decode_record(encode_record({RecordType::kPages, {0, kChunkPages + 1}, 0}), kPages));
  EXPECT_TRUE(decode_record(encode_record({RecordType::kPages, {0, kChunkPages}, 0}), kPages));
  EXPECT_FALSE(decode_record(encode_record({RecordType::kZero, {0, 1}, 0}), 0));
  EXPECT_FALSE(decode_record(encode_record({static_cast<RecordType>(5), {0, 1}, 0}), kPages));
  EXPECT_FALSE(decode_record(encode_record({RecordType::kRoundEnd, {}, 0}), kPages));
}

TEST(RamRecordTest, OnlyPagesHaveAPayload) {
  EXPECT_EQ((Record{RecordType::kPages, {0, 3}, 0}.payload()), 3 * kPageSize);
  EXPECT_EQ((Record{RecordType::kZero, {0, 3}, 0}.payload()), 0U);
  EXPECT_EQ((Record{RecordType::kHole, {0, 3}, 0}.payload()), 0U);
  EXPECT_EQ((Record{RecordType::kRoundEnd, {}, 1}.payload()), 0U);
}

}  // namespace
}  // namespace vmm::migration
