#include "load/options.h"

#include <arpa/inet.h>

#include <charconv>
#include <map>
#include <span>

#include "workload/options.h"

namespace vmm::load {
namespace {

constexpr std::uint64_t kSectorBytes = 512;
constexpr std::uint64_t kMaxBlockBytes = 1 << 20;
constexpr std::uint64_t kMaxDepth = 128;

const std::map<std::string_view, Access> kAccesses{{"randread", Access::kRandomRead},
                                                   {"randwrite", Access::kRandomWrite},
                                                   {"read", Access::kRead},
                                                   {"write", Access::kWrite}};
const std::map<std::string_view, Exchange> kExchanges{
    {"send", Exchange::kSend}, {"receive", Exchange::kReceive}, {"ping", Exchange::kPing}};

// The NAME=VALUE arguments, each of which must be asked for.
class Arguments {
 public:
  [[nodiscard]] static Result<Arguments> parse(std::span<const std::string_view> words) {
    Arguments arguments;
    for (const std::string_view word : words) {
      const std::size_t equals = word.find('=');
      if (equals == std::string_view::npos || equals == 0) {
        return fail(ErrorKind::kUsage, "'{}' is not NAME=VALUE", word);
      }
      const auto name = word.substr(0, equals);
      if (!arguments.values_.emplace(name, word.substr(equals + 1)).second) {
        return fail(ErrorKind::kUsage, "{}= is there twice", name);
      }
    }
    return arguments;
  }

  [[nodiscard]] Result<std::string_view> take(std::string_view name) {
    const auto found = values_.find(name);
    if (found == values_.end()) return fail(ErrorKind::kUsage, "{}= is missing", name);
    const auto value = found->second;
    values_.erase(found);
    return value;
  }

  [[nodiscard]] Result<std::string_view> take(std::string_view name, std::string_view fallback) {
    return values_.contains(name) ? take(name) : Result<std::string_view>(fallback);
  }

  [[nodiscard]] Result<std::uint64_t> take_number(std::string_view name, std::string_view fallback,
                                                  std::uint64_t highest) {
    TRY(const auto text, fallback.empty() ? take(name) : take(name, fallback));
    TRY(const auto value, with_context(workload::parse_bytes(text), std::string(name)));
    if (value > highest) {
      return fail(ErrorKind::kUsage, "{}: {} is more than {}", name, value, highest);
    }
    return value;
  }

  [[nodiscard]] Result<> expect_none() const {
    if (values_.empty()) return success();
    return fail(ErrorKind::kUsage, "{}= is not an argument of this load", values_.begin()->first);
  }

 private:
  std::map<std::string_view, std::string_view> values_;
};

constexpr std::uint64_t kAnyNumber = ~std::uint64_t{0};

Result<DiskLoad> parse_disk(Arguments& arguments) {
  DiskLoad load;
  TRY(load.path, arguments.take("device"));
  TRY(const auto access, arguments.take("access"));
  const auto found = kAccesses.find(access);
  if (found == kAccesses.end()) {
    return fail(ErrorKind::kUsage, "access: '{}' is none of randread, randwrite, read, write",
                access);
  }
  load.access = found->second;
  TRY(const auto block, arguments.take_number("block", "4K", kMaxBlockBytes));
  if (block % kSectorBytes != 0) {
    return fail(ErrorKind::kUsage, "block: {} is not a multiple of {}", block, kSectorBytes);
  }
  load.block_bytes = static_cast<std::uint32_t>(block);
  TRY(const auto depth, arguments.take_number("depth", "1", kMaxDepth));
  load.depth = static_cast<std::uint32_t>(depth);
  TRY(load.count, arguments.take_number("count", "", kAnyNumber));
  TRY(load.name, arguments.take("name", access));
  return load;
}

// "10.0.0.1:5000"
Result<sockaddr_in> parse_address(std::string_view text) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  const std::size_t colon = text.find(':');
  const std::string host(text.substr(0, colon));
  const auto digits = colon == std::string_view::npos ? "" : text.substr(colon + 1);
  std::uint16_t port = 0;
  const auto [end, status] = std::from_chars(digits.data(), digits.data() + digits.size(), port);
  if (inet_pton(AF_INET, host.c_str(), &address.sin_addr) != 1 || status != std::errc{} ||
      end != digits.data() + digits.size() || port == 0) {
    return fail(ErrorKind::kUsage, "'{}' is not an address such as 10.0.0.1:5000", text);
  }
  address.sin_port = htons(port);
  return address;
}

Result<NetworkLoad> parse_network(std::string_view word, Exchange exchange, Arguments& arguments) {
  NetworkLoad load;
  load.exchange = exchange;
  TRY(const auto peer, arguments.take("peer"));
  TRY(load.peer, parse_address(peer));
  TRY(load.count, arguments.take_number("count", "", kAnyNumber));
  TRY(load.name, arguments.take("name", word));
  return load;
}

}  // namespace

std::string_view usage() {
  return "usage: load disk device=PATH access=randread|randwrite|read|write count=N\n"
         "                 [block=4K] [depth=1] [name=NAME]\n"
         "       load send|receive|ping peer=ADDRESS:PORT count=N [name=NAME]\n"
         "       load serve address=ADDRESS:PORT\n"
         "Does count requests, bytes or round trips and prints how long they took.\n";
}

Result<Load> parse_load(std::span<const std::string_view> arguments) {
  if (arguments.empty()) return fail(ErrorKind::kUsage, "say what load to make (see load help)");
  const auto word = arguments.front();
  TRY(auto values, Arguments::parse(arguments.subspan(1)));
  Load load;
  if (word == "disk") {
    TRY(load, parse_disk(values));
  } else if (const auto exchange = kExchanges.find(word); exchange != kExchanges.end()) {
    TRY(load, parse_network(word, exchange->second, values));
  } else if (word == "serve") {
    TRY(const auto text, values.take("address"));
    TRY(const auto address, parse_address(text));
    load = Server{address};
  } else {
    return fail(ErrorKind::kUsage, "'{}' is no load (see load help)", word);
  }
  TRY(values.expect_none());
  return load;
}

}  // namespace vmm::load
