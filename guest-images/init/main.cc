// The first process of the guest images: mounts what programs expect, loads the listed modules,
// starts /etc/rc, runs a shell or a command on the console, and ends the system when the power key
// is pressed, the command is over, or a program asks for it (busybox's poweroff, reboot and halt).
//
// Kernel command line:
//   root=DEVICE         go on from this disk once the modules are loaded: its /sbin/init is started
//                       instead of all the rest (rootfstype=, rw and init= as usual)
//   vmm.run="COMMAND"   run COMMAND with the shell, print its status, power off
//   vmm.shell           a shell on the console, started again when it ends (also the default)
//
// The system on the disk may have this program as its init, too; it is not in RAM then.

#include <poll.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <optional>

#include "init/cmdline.h"
#include "init/modules.h"
#include "init/power_key.h"
#include "init/session.h"
#include "init/switch_root.h"
#include "init/system.h"

namespace vmm::guest {
namespace {

constexpr const char* kModuleList = "/lib/modules/load";
constexpr const char* kStartScript = "/etc/rc";

// What the signals of busybox's poweroff, reboot and halt, and Ctrl-Alt-Del, ask init for.
std::optional<Ending> ending_of(int signal) {
  switch (signal) {
    case SIGUSR2:
      return Ending::kPowerOff;
    case SIGTERM:
    case SIGINT:
      return Ending::kReboot;
    case SIGUSR1:
      return Ending::kHalt;
    default:
      return std::nullopt;
  }
}

int exit_code(int status) {
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

std::string active_console() {
  const auto active = slurp("/sys/class/tty/console/active");
  if (!active) say(active.error());
  return console_path(active ? active.value() : "");
}

// The program on the console: a command that ends the system, or a shell without end.
class Console {
 public:
  explicit Console(const std::string& command_line)
      : command_(parameter(command_line, "vmm.run")), path_(active_console()) {}

  void start() {
    const std::vector<std::string> arguments =
        command_ ? std::vector<std::string>{"/bin/sh", "-c", *command_}
                 : std::vector<std::string>{"/bin/sh", "-l"};
    auto pid = start_on_console(arguments, path_, Terminal::kControlling);
    if (!pid) return say(pid.error());
    pid_ = pid.value();
  }

  // Takes the end of a process; whether the system ends with it.
  bool ended(pid_t pid, int status) {
    if (pid != pid_) return false;
    if (command_) {
      say(fmt::format("run status={}", exit_code(status)));
      return true;
    }
    start();
    return false;
  }

 private:
  std::optional<std::string> command_;
  std::string path_;
  pid_t pid_ = -1;
};

[[noreturn]] void serve(const Fd& signals, PowerKey& power_key, Console& console) {
  while (true) {
    std::vector<pollfd> polled{{signals.get(), POLLIN, 0}};
    power_key.add_to(polled);
    poll(polled.data(), polled.size(), -1);
    if (power_key.pressed()) {
      say("power key pressed");
      end_system(Ending::kPowerOff);
    }
    signalfd_siginfo info{};
    while (read(signals.get(), &info, sizeof(info)) == sizeof(info)) {
      if (const auto ending = ending_of(static_cast<int>(info.ssi_signo))) end_system(*ending);
    }
    int status = 0;
    for (pid_t pid = 0; (pid = waitpid(-1, &status, WNOHANG)) > 0;) {
      if (console.ended(pid, status)) end_system(Ending::kPowerOff);
    }
  }
}

// signalfd of the signals init acts on, which stay blocked.
Fd take_signals() {
  sigset_t signals;
  sigemptyset(&signals);
  for (const int signal : {SIGCHLD, SIGUSR1, SIGUSR2, SIGTERM, SIGINT}) {
    sigaddset(&signals, signal);
  }
  sigprocmask(SIG_BLOCK, &signals, nullptr);
  return Fd(signalfd(-1, &signals, SFD_NONBLOCK | SFD_CLOEXEC));
}

// Leaves the initial RAM disk for the root disk, if the command line names one. A system without
// its root has nothing to offer and powers off.
void go_to_root_disk(const std::string& command_line) {
  const auto disk = root_disk(command_line);
  if (!disk || !runs_from_ram()) return;
  const Error error = switch_root(*disk);
  say(error);
  end_system(Ending::kPowerOff);
}

// Starts the script that brings up network and services, where there is one.
void start_services(const std::string& console) {
  if (access(kStartScript, F_OK) != 0) return;
  const auto pid = start_on_console({"/bin/sh", kStartScript}, console, Terminal::kPlain);
  if (!pid) say(pid.error());
}

[[noreturn]] void run() {
  mount_all();
  say((runs_from_ram() ? "init reached uptime=" : "init on disk uptime=") + uptime());
  const Fd signals = take_signals();
  setenv("PATH", "/bin:/sbin:/usr/bin:/usr/sbin", 1);
  setenv("HOME", "/root", 1);
  setenv("TERM", "vt102", 0);
  load_modules(kModuleList);
  const auto read_line = slurp("/proc/cmdline");
  if (!read_line) say(read_line.error());
  const std::string command_line = read_line ? read_line.value() : "";
  go_to_root_disk(command_line);
  sethostname("guest", 5);
  PowerKey power_key;
  Console console(command_line);
  start_services(active_console());
  say(fmt::format("ready uptime={} cpus={}", uptime(), sysconf(_SC_NPROCESSORS_ONLN)));
  console.start();
  serve(signals, power_key, console);
}

}  // namespace
}  // namespace vmm::guest

int main() {
  if (getpid() != 1) {
    vmm::guest::say("error: this is the first process of a guest and does nothing elsewhere");
    return 2;
  }
  vmm::guest::run();
}
