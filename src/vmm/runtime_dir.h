#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/result.h"

namespace vmm {

// The folder of the control sockets: $XDG_RUNTIME_DIR/vmm, or /run/vmm where that is not set. It is
// made, with mode 0700, where it does not exist.
[[nodiscard]] Result<std::filesystem::path> runtime_dir();

// A guest's name on this host, held by a locked file while the guest lives: NAME.lock beside the
// control socket NAME.sock. The lock goes with the process, so whatever files a killed guest left
// behind are stale and replaced.
class GuestName {
 public:
  // Error (kFailed) where a live guest has the name.
  [[nodiscard]] static Result<GuestName> claim(const std::filesystem::path& dir,
                                               const std::string& name);
  GuestName(GuestName&&) noexcept = default;
  GuestName& operator=(GuestName&&) = delete;
  // Removes socket and lock file.
  ~GuestName();

  [[nodiscard]] const std::filesystem::path& socket_path() const { return socket_path_; }
  [[nodiscard]] const std::filesystem::path& log_path() const { return log_path_; }

 private:
  GuestName(Fd lock, const std::filesystem::path& dir, const std::string& name);

  Fd lock_;
  std::filesystem::path lock_path_;
  std::filesystem::path socket_path_;
  std::filesystem::path log_path_;
};

// Names that have a control socket, in alphabetical order; some may be stale.
[[nodiscard]] Result<std::vector<std::string>> guest_names(const std::filesystem::path& dir);

}  // namespace vmm
