#pragma once

#include <filesystem>
#include <functional>
#include <optional>

#include "base/fd.h"
#include "base/result.h"

namespace vmm {

// Puts the rest of the program into a child process of its own session, and lets the parent wait
// until the child reports how its start went.
class Detached {
 public:
  // Forks; call it before there are threads. In the parent the result is empty, and comes when the
  // child has reported: success, or the child's error. In the child it holds the object to report
  // with.
  [[nodiscard]] static Result<std::optional<Detached>> split();

  // Standard input and output of the child go to /dev/null, standard error to the end of log.
  [[nodiscard]] Result<> redirect(const std::filesystem::path& log) const;
  // The same, and what is logged goes there, too.
  [[nodiscard]] Result<> log_to(const std::filesystem::path& log);
  // Tells the parent; once.
  void report_started();
  void report_failure(const Error& error);
  // How it went goes to where log_to() said; nobody needs the log of what ended well.
  void close_log(const Result<>& result);

 private:
  explicit Detached(Fd pipe) : pipe_(std::move(pipe)) {}
  void report(std::byte kind, std::string_view message);

  Fd pipe_;
  std::filesystem::path log_;  // empty until log_to()
};

// Runs the work here, or in a child that it reports the start of: then the parent's result is that
// of the start, and the child ends with the work, with the exit code of its error.
[[nodiscard]] Result<> run_detachable(bool detach, const std::function<Result<>(Detached*)>& work);

}  // namespace vmm
