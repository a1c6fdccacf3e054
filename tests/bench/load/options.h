#pragma once

#include <netinet/in.h>

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <variant>

#include "base/result.h"

namespace vmm::load {

enum class Access { kRandomRead, kRandomWrite, kRead, kWrite };

// Direct I/O on a block device or file.
struct DiskLoad {
  std::string name;  // what the printed lines call it
  std::string path;
  Access access = Access::kRandomRead;
  std::uint32_t block_bytes = 4096;  // a multiple of 512, up to 1 MiB
  std::uint32_t depth = 1;           // requests under way, 1–128
  std::uint64_t count = 0;           // requests measured; a tenth of that comes before, unmeasured
};

enum class Exchange {
  kSend,     // a stream to the peer, until it has received all of it
  kReceive,  // a stream from the peer
  kPing      // one byte there, one byte back
};

// A TCP connection to a `load serve`.
struct NetworkLoad {
  std::string name;
  Exchange exchange = Exchange::kSend;
  sockaddr_in peer{};
  std::uint64_t count = 0;  // bytes, or round trips; a tenth of that comes before, unmeasured
};

// The peer of network loads, without end.
struct Server {
  sockaddr_in address{};
};

using Load = std::variant<DiskLoad, NetworkLoad, Server>;

// The text of `load help`.
[[nodiscard]] std::string_view usage();

// Reads the command line without the program's name: a word, then NAME=VALUE each. Errors are
// ErrorKind::kUsage and name the argument.
[[nodiscard]] Result<Load> parse_load(std::span<const std::string_view> arguments);

}  // namespace vmm::load
