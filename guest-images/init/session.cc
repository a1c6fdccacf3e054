#include "init/session.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <csignal>

#include "init/system.h"

namespace vmm::guest {
namespace {

[[noreturn]] void become(const std::vector<std::string>& arguments, const std::string& console,
                         Terminal terminal_use) {
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  setsid();
  const bool controlling = terminal_use == Terminal::kControlling;
  const int terminal = open(console.c_str(), O_RDWR | (controlling ? 0 : O_NOCTTY));
  if (terminal >= 0) {
    // Job control is a convenience; the program runs without it.
    if (controlling) ioctl(terminal, TIOCSCTTY, 1);
    for (const int standard : {0, 1, 2}) dup2(terminal, standard);
    if (terminal > 2) close(terminal);
  }
  std::vector<char*> argv;
  argv.reserve(arguments.size() + 1);
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  execv(argv.front(), argv.data());
  say(system_error(ErrorKind::kFailed, "start {}", arguments.front()));
  _exit(127);
}

}  // namespace

Result<pid_t> start_on_console(const std::vector<std::string>& arguments,
                               const std::string& console, Terminal terminal_use) {
  const pid_t pid = fork();
  if (pid < 0) return fail_errno(ErrorKind::kFailed, "fork for {}", arguments.front());
  if (pid == 0) become(arguments, console, terminal_use);
  return pid;
}

}  // namespace vmm::guest
