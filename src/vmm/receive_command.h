#pragma once

#include <chrono>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "migration/limits.h"
#include "vmm/migration_channels.h"

namespace vmm {

struct ReceiveOptions {
  std::string listen;  // host:port
  std::optional<std::filesystem::path> config;
  std::optional<std::filesystem::path> allow_path;
  std::optional<std::string> name;
  std::vector<std::string> allow_peers;  // names or fingerprints
  ChannelOptions channels;
  bool detach = false;
  std::chrono::milliseconds peer_timeout = migration::kDefaultPeerTimeout;
};

// Waits for one guest from another host, then runs it until it ends. A guest that cannot come here
// is refused, and the next one waited for.
[[nodiscard]] Result<> receive_guest(const ReceiveOptions& options);

}  // namespace vmm
