#include "vmm/runtime_dir.h"

#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

#include <atomic>
#include <cstring>
#include <optional>
#include <thread>
#include <vector>

#include "vmm/control_client.h"
#include "vmm_support.h"

namespace vmm {
namespace {

// XDG_RUNTIME_DIR for the length of a test.
class RuntimeVariable {
 public:
  explicit RuntimeVariable(const char* value) {
    if (const char* before = std::getenv(kName)) before_ = before;
    if (value == nullptr) {
      ::unsetenv(kName);
    } else {
      ::setenv(kName, value, 1);
    }
  }
  RuntimeVariable(const RuntimeVariable&) = delete;
  RuntimeVariable& operator=(const RuntimeVariable&) = delete;
  ~RuntimeVariable() {
    if (before_) {
      ::setenv(kName, before_->c_str(), 1);
    } else {
      ::unsetenv(kName);
    }
  }

 private:
  static constexpr auto kName = "XDG_RUNTIME_DIR";
  std::optional<std::string> before_;
};

// A listening socket, as a live guest has; the file stays when it is closed.
Fd listen_at(const std::filesystem::path& path) {
  Fd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, path.c_str(), sizeof address.sun_path - 1);
  EXPECT_EQ(::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  EXPECT_EQ(::listen(fd.get(), 8), 0);
  return fd;
}

TEST(RuntimeDirTest, IsMadeForItsOwnerAlone) {
  const TempDir dir;
  const RuntimeVariable variable(dir.path().c_str());
  for (int i = 0; i < 2; ++i) {  // made, and there already
    const auto found = runtime_dir();
    ASSERT_TRUE(found) << found.error().message();
    EXPECT_EQ(found.value(), dir / "vmm");
    struct stat status {};
    ASSERT_EQ(::stat(found.value().c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 07777, 0700U);
  }
}

TEST(RuntimeDirTest, IsBelowRunByDefault) {
  for (const char* value : {static_cast<const char*>(nullptr), ""}) {
    const RuntimeVariable variable(value);
    const auto found = runtime_dir();
    if (found) {
      EXPECT_EQ(found.value(), "/run/vmm");
    } else {
      expect_error(found, ErrorKind::kHost, "cannot make /run/vmm for control sockets");
    }
  }
}

TEST(RuntimeDirTest, AFolderThatCannotBeMadeIsNamed) {
  const TempDir dir;
  const RuntimeVariable variable((dir / "none").c_str());
  expect_error(runtime_dir(), ErrorKind::kHost, (dir / "none/vmm").string());
}

TEST(GuestNameTest, FilesAreNamedAfterTheGuestAndGoWithIt) {
  const TempDir dir;
  {
    const auto name = GuestName::claim(dir.path(), "web");
    ASSERT_TRUE(name) << name.error().message();
    EXPECT_EQ(name.value().socket_path(), dir / "web.sock");
    EXPECT_EQ(name.value().log_path(), dir / "web.log");
    EXPECT_TRUE(std::filesystem::exists(dir / "web.lock"));
    static_cast<void>(listen_at(name.value().socket_path()));
  }
  EXPECT_TRUE(std::filesystem::is_empty(dir.path()));
}

TEST(GuestNameTest, AMovedNameRemovesItsFilesOnce) {
  const TempDir dir;
  auto first = std::make_optional(GuestName::claim(dir.path(), "web"));
  ASSERT_TRUE(first->has_value());
  {
    const GuestName moved = std::move(*first).value();
    expect_error(GuestName::claim(dir.path(), "web"), ErrorKind::kFailed, "already running");
  }
  const auto again = GuestName::claim(dir.path(), "web");
  ASSERT_TRUE(again);
  first.reset();
  EXPECT_TRUE(std::filesystem::exists(dir / "web.lock")) << "not removed by the moved-from one";
}

TEST(GuestNameTest, ANameIsTakenWhileItsGuestLives) {
  const TempDir dir;
  auto first = std::make_optional(GuestName::claim(dir.path(), "web"));
  ASSERT_TRUE(first->has_value());
  const Fd socket = listen_at(first->value().socket_path());
  expect_error(GuestName::claim(dir.path(), "web"), ErrorKind::kFailed,
               "a guest named web is already running here");
  EXPECT_TRUE(std::filesystem::exists(dir / "web.sock")) << "untouched by the refused one";
  EXPECT_TRUE(std::filesystem::exists(dir / "web.lock"));
  EXPECT_TRUE(GuestName::claim(dir.path(), "web2"));
  first.reset();
  EXPECT_TRUE(GuestName::claim(dir.path(), "web"));
}

TEST(GuestNameTest, WhatAKilledGuestLeftIsReplaced) {
  const TempDir dir;
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    const auto name = GuestName::claim(dir.path(), "web");
    static_cast<void>(listen_at(dir / "web.sock"));
    ::kill(::getpid(), SIGKILL);
    ::_exit(name ? 1 : 2);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFSIGNALED(status));
  ASSERT_TRUE(std::filesystem::exists(dir / "web.sock"));
  ASSERT_TRUE(std::filesystem::exists(dir / "web.lock"));

  const auto name = GuestName::claim(dir.path(), "web");
  ASSERT_TRUE(name) << name.error().message();
  EXPECT_FALSE(std::filesystem::exists(dir / "web.sock"));
  const Fd socket = listen_at(name.value().socket_path());
}

TEST(GuestNameTest, ALockFileRemovedWhileItIsOpenedIsNoClaim) {
  // Locked through a descriptor whose file is gone: the name is free, and a new file holds it.
  const TempDir dir;
  const auto old_file = open_file((dir / "web.lock").string(), O_RDWR | O_CREAT).value();
  ASSERT_EQ(::flock(old_file.get(), LOCK_EX), 0);
  expect_error(GuestName::claim(dir.path(), "web"), ErrorKind::kFailed, "already running");
  std::filesystem::remove(dir / "web.lock");
  const auto name = GuestName::claim(dir.path(), "web");
  ASSERT_TRUE(name) << name.error().message();
  expect_error(GuestName::claim(dir.path(), "web"), ErrorKind::kFailed, "already running");
}

// A file removed by its owner between another's open and lock is no claim either.
TEST(GuestNameTest, NeverTwoHaveANameHoweverOftenItChangesHands) {
  const TempDir dir;
  std::atomic<int> holders = 0;
  std::atomic<int> claims = 0;
  std::vector<std::thread> rivals;
  for (int i = 0; i < 4; ++i) {
    rivals.emplace_back([&] {
      for (int round = 0; round < 1000; ++round) {
        const auto name = GuestName::claim(dir.path(), "web");
        if (!name) continue;
        EXPECT_EQ(++holders, 1);
        ++claims;
        std::this_thread::yield();
        --holders;
      }
    });
  }
  for (auto& rival : rivals) rival.join();
  EXPECT_GT(claims, 0);
}

TEST(GuestNameTest, ANameTooLongForASocketIsRefused) {
  const TempDir dir;
  const auto room = sizeof(sockaddr_un::sun_path) - 1 - dir.path().string().size() - 6;
  EXPECT_TRUE(GuestName::claim(dir.path(), std::string(room, 'x')));
  expect_error(GuestName::claim(dir.path(), std::string(room + 1, 'x')), ErrorKind::kUsage,
               "too long");
  EXPECT_TRUE(std::filesystem::is_empty(dir.path()));
}

TEST(GuestNameTest, AFolderThatIsNotThereIsNamed) {
  expect_error(GuestName::claim("/nowhere", "web"), ErrorKind::kFailed, "/nowhere/web.lock");
}

TEST(GuestNamesTest, AreThoseOfSocketsInOrder) {
  const TempDir dir;
  for (const auto* file : {"b.sock", "a.sock", "a.b.sock", "c.lock", "d.log", "sock"}) {
    dir.file(file, "");
  }
  const auto names = guest_names(dir.path());
  ASSERT_TRUE(names) << names.error().message();
  EXPECT_THAT(names.value(), ::testing::ElementsAre("a", "a.b", "b"));
  expect_error(guest_names(dir / "none"), ErrorKind::kFailed, (dir / "none").string());
}

TEST(ConnectTest, WithoutANameTheOnlyLiveGuestIsMeant) {
  const TempDir dir;
  const RuntimeVariable variable(dir.path().c_str());
  const auto folder = runtime_dir().value();
  expect_error(ControlClient::connect(""), ErrorKind::kNoSuchGuest, "no guest is running");
  static_cast<void>(listen_at(folder / "stale.sock"));
  expect_error(ControlClient::connect(""), ErrorKind::kNoSuchGuest, "no guest is running");
  const Fd one = listen_at(folder / "one.sock");
  EXPECT_TRUE(ControlClient::connect(""));
  EXPECT_TRUE(ControlClient::connect("one"));
  const Fd two = listen_at(folder / "two.sock");
  expect_error(ControlClient::connect(""), ErrorKind::kNoSuchGuest, "one, two");
  expect_error(ControlClient::connect("stale"), ErrorKind::kNoSuchGuest,
               "no guest named stale is running");
  expect_error(ControlClient::connect("three"), ErrorKind::kNoSuchGuest,
               "no guest named three is running");
}

}  // namespace
}  // namespace vmm
