#include "vmm/detach.h"

#include <signal.h>
#include <sys/wait.h>

#include <functional>
#include <thread>

#include "vmm_support.h"

namespace vmm {
namespace {

// Splits in a process of its own, so that a child that comes back is not the test program, and
// returns what the parent was told: its exit code (0 good, or the error's kind), then the message.
struct Told {
  int code;
  std::string message;
};

class DetachTest : public ::testing::Test {
 protected:
  Told split(const std::function<void(Detached&)>& in_child) {
    const pid_t parent = ::fork();
    if (parent == 0) {
      auto detached = Detached::split();
      if (detached && detached.value()) {
        in_child(*detached.value());
        ::_exit(0);
      }
      dir_.file("message", detached ? "" : detached.error().message());
      ::_exit(detached ? 0 : static_cast<int>(detached.error().kind()));
    }
    int status = 0;
    EXPECT_EQ(::waitpid(parent, &status, 0), parent);
    EXPECT_TRUE(WIFEXITED(status)) << "status " << status;
    return {WEXITSTATUS(status), contents_of(dir_ / "message")};
  }
  // Waits for a file that the child makes, as nobody waits for the child.
  [[nodiscard]] std::string wait_for_file(std::string_view name) const {
    for (int i = 0; i < 5000; ++i) {
      if (std::filesystem::exists(dir_ / name)) return contents_of(dir_ / name);
      ::usleep(1000);
    }
    ADD_FAILURE() << "no " << name << " after 5 s";
    return {};
  }
  // Made in one step, so that who waits for it never sees half of it.
  void publish(std::string_view name, std::string_view text) const {
    std::filesystem::rename(dir_.file("unfinished", text), dir_ / name);
  }

  TempDir dir_;
};

TEST_F(DetachTest, TheParentSucceedsOnceTheChildHasStarted) {
  const auto told = split([this](Detached& detached) {
    ::usleep(20'000);
    publish("started", "");
    detached.report_started();
  });
  EXPECT_EQ(told.code, 0) << told.message;
  EXPECT_TRUE(std::filesystem::exists(dir_ / "started")) << "the parent did not wait";
}

TEST_F(DetachTest, TheParentFailsAsTheChildDid) {
  for (const auto kind : {ErrorKind::kFailed, ErrorKind::kUsage, ErrorKind::kNoSuchGuest,
                          ErrorKind::kHost, ErrorKind::kInterrupted}) {
    const auto told = split([kind](Detached& detached) {
      detached.report_failure(make_error(kind, "kernel Image is truncated"));
    });
    EXPECT_EQ(told.code, static_cast<int>(kind));
    EXPECT_EQ(told.message, "kernel Image is truncated");
  }
}

TEST_F(DetachTest, LongMessagesComeThroughWhole) {
  const std::string words(200'000, 'x');
  const auto told = split(
      [&words](Detached& detached) { detached.report_failure(Error(ErrorKind::kHost, words)); });
  EXPECT_EQ(told.code, 4);
  EXPECT_TRUE(told.message == words);
}

TEST_F(DetachTest, AChildThatDiesWithoutAReportIsAFailure) {
  for (const int signal_number : {0, SIGKILL}) {
    const auto told = split([signal_number](Detached&) {
      if (signal_number != 0) ::kill(::getpid(), signal_number);
      ::_exit(0);
    });
    EXPECT_EQ(told.code, 1);
    EXPECT_EQ(told.message, "the guest's process died at its start");
  }
}

TEST_F(DetachTest, AFailureAfterTheStartIsNotReportedToAnybody) {
  const auto told = split([this](Detached& detached) {
    detached.report_started();
    detached.report_failure(make_error(ErrorKind::kFailed, "later"));
    publish("later", "alive");
  });
  EXPECT_EQ(told.code, 0) << told.message;
  EXPECT_EQ(wait_for_file("later"), "alive");
}

TEST_F(DetachTest, TheChildHasASessionOfItsOwnAndNoTerminal) {
  dir_.file("log", "before\n");
  const auto told = split([this](Detached& detached) {
    const auto redirected = detached.redirect(dir_ / "log");
    if (!redirected) detached.report_failure(redirected.error());
    char byte = 0;
    const bool input_is_empty = ::read(STDIN_FILENO, &byte, 1) == 0;
    const bool own_session = ::getsid(0) == ::getpid();
    const bool logged = ::write(STDERR_FILENO, "words\n", 6) == 6;
    const bool quiet = ::write(STDOUT_FILENO, "lost\n", 5) == 5;
    publish("child", input_is_empty && own_session && logged && quiet ? "good" : "bad");
    detached.report_started();
  });
  EXPECT_EQ(told.code, 0) << told.message;
  EXPECT_EQ(contents_of(dir_ / "child"), "good");
  EXPECT_EQ(contents_of(dir_ / "log"), "before\nwords\n");
}

TEST_F(DetachTest, ALogThatCannotBeOpenedIsReported) {
  const auto told = split([this](Detached& detached) {
    const auto redirected = detached.redirect(dir_ / "none/log");
    if (!redirected) detached.report_failure(redirected.error());
  });
  EXPECT_EQ(told.code, 1);
  EXPECT_THAT(told.message, ::testing::HasSubstr("none/log"));
}

TEST_F(DetachTest, WorkThatEndsWellLeavesNoLogAndOtherWorkSaysWhyThere) {
  const auto run = [this](bool well) {
    return run_detachable(true, [this, well](Detached* detached) -> Result<> {
      TRY(detached->log_to(dir_ / "log"));
      detached->report_started();
      publish("working", "yes");
      if (!well) return fail(ErrorKind::kFailed, "the disk is on fire");
      return success();
    });
  };
  EXPECT_TRUE(run(false));
  while (contents_of(dir_ / "log").find("the disk is on fire") == std::string::npos) {
    std::this_thread::yield();
  }
  EXPECT_TRUE(run(true));
  while (std::filesystem::exists(dir_ / "log")) std::this_thread::yield();
  EXPECT_EQ(contents_of(dir_ / "working"), "yes");
}

TEST_F(DetachTest, WorkThatFailsAtItsStartIsTheResult) {
  const auto result = run_detachable(
      true, [](Detached*) -> Result<> { return fail(ErrorKind::kHost, "no KVM here"); });
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().kind(), ErrorKind::kHost);
  EXPECT_EQ(result.error().message(), "no KVM here");
}

}  // namespace
}  // namespace vmm
