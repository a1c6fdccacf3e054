#include "devices/tap.h"

#include <linux/capability.h>
#include <sys/syscall.h>

#include "tap_fixture.h"

namespace vmm {
namespace {

constexpr int kVnetTap = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;

class TapHostTest : public TapFixture {
 protected:
  static void expect_error(const Result<std::unique_ptr<Tap>>& tap, ErrorKind kind,
                           const std::string& text) {
    ASSERT_FALSE(tap);
    EXPECT_EQ(tap.error().kind(), kind);
    EXPECT_NE(tap.error().message().find(text), std::string::npos) << tap.error().message();
  }
};

TEST_F(TapHostTest, MakesAnInterfaceThatGoesWithIt) {
  auto tap = Tap::open_by_name("tap7").value();
  EXPECT_EQ(tap->name(), "tap7");
  EXPECT_TRUE(is_up("tap7"));
  EXPECT_EQ(tap->unusual_mtu(), std::nullopt);
  EXPECT_NE(::fcntl(tap->fd().get(), F_GETFL) & O_NONBLOCK, 0);
  EXPECT_NE(::fcntl(tap->fd().get(), F_GETFD) & FD_CLOEXEC, 0);
  tap.reset();
  EXPECT_FALSE(exists("tap7"));
}

TEST_F(TapHostTest, AttachesToAnInterfaceThatIsThere) {
  attach("tap0", IFF_TAP | IFF_NO_PI, true);
  set_mtu("tap0", 9000);
  auto tap = Tap::open_by_name("tap0").value();
  EXPECT_EQ(tap->unusual_mtu(), 9000);
  EXPECT_FALSE(is_up("tap0")) << "whether it is up is for its owner to say";
  tap.reset();
  EXPECT_TRUE(exists("tap0"));
  EXPECT_TRUE(Tap::open_by_name("tap0")) << "can be used again";
}

TEST_F(TapHostTest, TakesTheOffloadsOfTheKernel) {
  const auto tap = Tap::open_by_name("tap0").value();
  constexpr unsigned kNeeded = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN;
  EXPECT_EQ(tap->offload() & kNeeded, kNeeded);
  EXPECT_TRUE(tap->set_offload(tap->offload()));
  EXPECT_TRUE(tap->set_offload(0));
  EXPECT_FALSE(tap->set_offload(TUN_F_TSO4));
}

TEST_F(TapHostTest, SaysThatATapIsInUse) {
  const auto tap = Tap::open_by_name("tap0").value();
  expect_error(Tap::open_by_name("tap0"), ErrorKind::kFailed, "in use by another process");
}

TEST_F(TapHostTest, SaysThatAnInterfaceIsNoTap) {
  expect_error(Tap::open_by_name("lo"), ErrorKind::kUsage, "lo is not a tap");
  const Fd tun = attach("tun0", IFF_TUN | IFF_NO_PI, true);
  expect_error(Tap::open_by_name("tun0"), ErrorKind::kUsage, "tun0 is not a tap");
}

TEST_F(TapHostTest, SaysWhichPermissionIsMissing) {
  {
    const Fd others = attach("tap0", kVnetTap, true);
    ASSERT_EQ(::ioctl(others.get(), TUNSETOWNER, 1234UL), 0);
  }
  const __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct all[2] = {};
  ASSERT_EQ(::syscall(SYS_capget, &header, all), 0);
  __user_cap_data_struct less[2] = {all[0], all[1]};
  less[0].effective &= ~(1U << CAP_NET_ADMIN);
  ASSERT_EQ(::syscall(SYS_capset, &header, less), 0);
  const auto missing = Tap::open_by_name("tap1");
  const auto owned = Tap::open_by_name("tap0");
  ASSERT_EQ(::syscall(SYS_capset, &header, all), 0);
  expect_error(missing, ErrorKind::kHost, "making one takes CAP_NET_ADMIN");
  expect_error(owned, ErrorKind::kHost, "tap0 belongs to another user");
}

TEST_F(TapHostTest, AdoptsADescriptorOfTheParent) {
  Fd fd = attach("tap0", kVnetTap);
  const int number = fd.get();
  const auto tap = Tap::adopt(std::move(fd)).value();
  EXPECT_EQ(tap->name(), "tap0");
  EXPECT_EQ(tap->fd().get(), number);
  EXPECT_NE(::fcntl(number, F_GETFL) & O_NONBLOCK, 0);
  EXPECT_NE(tap->offload(), 0U);
}

TEST_F(TapHostTest, RefusesDescriptorsOfOtherKindsOfInterfaces) {
  expect_error(Tap::adopt(attach("tap0", IFF_TAP | IFF_NO_PI)), ErrorKind::kUsage,
               "not a tap with IFF_VNET_HDR");
  expect_error(Tap::adopt(attach("tun0", IFF_TUN | IFF_NO_PI | IFF_VNET_HDR)), ErrorKind::kUsage,
               "not a tap with IFF_VNET_HDR");
  expect_error(Tap::adopt(open_file("/dev/net/tun", O_RDWR).value()), ErrorKind::kUsage,
               "is not attached to a tap");
}

}  // namespace
}  // namespace vmm
