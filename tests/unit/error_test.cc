#include "base/error.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <string>

#include "base/result.h"

namespace vmm {
namespace {

TEST(ErrorTest, SaysWhatFailed) {
  const Error error = make_error(ErrorKind::kUsage, "memory of {} MiB is too small", 1);
  EXPECT_EQ(error.message(), "memory of 1 MiB is too small");
  EXPECT_EQ(error.kind(), ErrorKind::kUsage);
  EXPECT_EQ(error.system_errno(), 0);
}

TEST(ErrorTest, EndsWithTheSystemsReason) {
  errno = ENOENT;
  const Error error = system_error(ErrorKind::kFailed, "cannot open {}", "Image");
  EXPECT_EQ(error.message(), "cannot open Image: No such file or directory");
  EXPECT_EQ(error.system_errno(), ENOENT);
}

TEST(ErrorTest, PutsTheWidestOperationFirst) {
  Error error = make_error(ErrorKind::kFailed, "short read");
  error.add_context("kernel Image").add_context("guest web1");
  EXPECT_EQ(error.message(), "guest web1: kernel Image: short read");
}

Result<int> half(int value) {
  if (value % 2 != 0) return fail(ErrorKind::kFailed, "{} is odd", value);
  return value / 2;
}

Result<int> quarter(int value) {
  TRY(auto once, half(value));
  TRY(auto twice, with_context(half(once), "second time"));
  return twice;
}

TEST(ResultTest, GoesOnWithTheValueOrReturnsTheError) {
  EXPECT_EQ(quarter(12).value(), 3);
  EXPECT_EQ(quarter(3).error().message(), "3 is odd");
  EXPECT_EQ(quarter(6).error().message(), "second time: 3 is odd");
}

TEST(ResultTest, KeepsErrnoOfTheFailedCall) {
  const auto call = []() -> Result<> {
    errno = EPERM;
    return fail_errno(ErrorKind::kHost, "cannot open {}", "/dev/kvm");
  };
  const auto result = call();
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().system_errno(), EPERM);
  EXPECT_EQ(result.error().kind(), ErrorKind::kHost);
}

TEST(ResultDeathTest, AbortsWhenTheValueOfAnErrorIsRead) {
  EXPECT_DEATH(static_cast<void>(half(3).value()), "");
}

}  // namespace
}  // namespace vmm
