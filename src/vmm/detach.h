#pragma once

#include <filesystem>
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
  // Tells the parent; once.
  void report_started();
  void report_failure(const Error& error);

 private:
  explicit Detached(Fd pipe) : pipe_(std::move(pipe)) {}
  void report(std::byte kind, std::string_view message);

  Fd pipe_;
};

}  // namespace vmm
