#include "vmm/client_commands.h"

#include <fmt/format.h>

#include <boost/json/array.hpp>
#include <boost/json/serialize.hpp>

#include <thread>

#include "vmm/control_client.h"
#include "vmm/guest_config.h"
#include "vmm/json_access.h"
#include "vmm/runtime_dir.h"

namespace vmm {
namespace json = boost::json;

namespace {

// Long enough for any guest process that is not stuck.
constexpr ControlClient::Timeout kReplyTimeout{10'000};
// `vmm list` asks many guests, and one that is stuck must not hide the others.
constexpr ControlClient::Timeout kListTimeout{2'000};
// What a guest that runs needs to tell about its memory.
constexpr std::chrono::milliseconds kStatisticsTimeout{1'000};
constexpr std::chrono::milliseconds kStatisticsPoll{20};

std::string duration(std::int64_t ms) {
  const auto seconds = ms / 1000;
  if (seconds < 60) return fmt::format("{}.{} s", seconds, ms % 1000 / 100);
  if (seconds < 3600) return fmt::format("{}:{:02} min", seconds / 60, seconds % 60);
  return fmt::format("{}:{:02} h", seconds / 3600, seconds % 3600 / 60);
}

Result<> call(const std::string& name, std::string_view method) {
  TRY(auto client, ControlClient::connect(name));
  TRY(client.call(method, {}, kReplyTimeout));
  return success();
}

Result<std::string> guest_row(const json::value& info) {
  TRY(const auto name, text(info, "name"));
  TRY(const auto state, text(info, "state"));
  TRY(const auto vcpus, integer(info, "vcpus"));
  TRY(const auto memory, integer(info, "memory"));
  TRY(const auto uptime, integer(info, "uptime_ms"));
  TRY(const auto pid, integer(info, "pid"));
  return fmt::format("{:<20} {:<8} {:>5} {:>8} {:>10} {:>8}\n", name, state, vcpus,
                     fmt::format("{}M", memory >> 20), duration(uptime), pid);
}

// A line for each device: its name, then its counters.
Result<std::string> device_rows(const json::value& stats) {
  TRY(const auto* devices, member(stats, "devices"));
  if (!devices->is_array()) return fail(ErrorKind::kFailed, "\"devices\" in the reply is no list");
  std::string rows;
  for (const auto& device : devices->get_array()) {
    TRY(const auto name, text(device, "name"));
    TRY(const auto* counters, member(device, "counters"));
    if (!counters->is_object()) {
      return fail(ErrorKind::kFailed, "\"counters\" in the reply is no object");
    }
    rows += fmt::format("{:<20}", name);
    for (const auto& entry : counters->get_object()) {
      rows += fmt::format(" {} {}", std::string_view(entry.key()), json::serialize(entry.value()));
    }
    rows += "\n";
  }
  return rows.empty() ? rows : "\nDEVICE\n" + rows;
}

}  // namespace

Result<> list_guests(bool as_json) {
  TRY(const auto dir, runtime_dir());
  TRY(const auto names, guest_names(dir));
  json::array guests;
  for (const auto& name : names) {
    auto client = ControlClient::connect_path(dir / (name + ".sock"));
    if (!client) continue;  // a socket that a killed guest left behind
    auto info = client.value().call("guest.info", {}, kListTimeout);
    if (!info) return fail(std::move(info).error().add_context(name));
    guests.push_back(std::move(info).value());
  }
  if (as_json) {
    print(json::serialize(guests) + "\n");
    return success();
  }
  std::string table = fmt::format("{:<20} {:<8} {:>5} {:>8} {:>10} {:>8}\n", "NAME", "STATE",
                                  "VCPUS", "MEMORY", "UPTIME", "PID");
  for (const auto& info : guests) {
    TRY(const auto row, guest_row(info));
    table += row;
  }
  print(table);
  return success();
}

Result<> pause_guest(const std::string& name) {
  return call(name, "guest.pause");
}
Result<> resume_guest(const std::string& name) {
  return call(name, "guest.resume");
}

Result<> stop_guest(const std::string& name, std::chrono::seconds timeout) {
  TRY(auto client, ControlClient::connect(name));
  TRY(client.call("guest.stop", {}, kReplyTimeout));
  TRY(const auto ended, client.wait_closed(timeout));
  if (!ended) {
    return fail(ErrorKind::kFailed,
                "the guest has not shut down within {} s and runs on; vmm kill ends it",
                timeout.count());
  }
  return success();
}

Result<> kill_guest(const std::string& name) {
  TRY(auto client, ControlClient::connect(name));
  TRY(client.call("guest.kill", {}, kReplyTimeout));
  TRY(const auto ended, client.wait_closed(kReplyTimeout));
  if (!ended) return fail(ErrorKind::kFailed, "the guest's process has not ended");
  return success();
}

Result<> print_guest_stats(const std::string& name, bool as_json) {
  TRY(auto client, ControlClient::connect(name));
  TRY(const auto stats, client.call("guest.stats", {}, kReplyTimeout));
  if (as_json) {
    print(json::serialize(stats) + "\n");
    return success();
  }
  TRY(const auto guest, text(stats, "name"));
  TRY(const auto state, text(stats, "state"));
  TRY(const auto uptime, integer(stats, "uptime_ms"));
  TRY(const auto reboots, integer(stats, "reboots"));
  TRY(const auto resident, integer(stats, "resident"));
  TRY(const auto memory, integer(stats, "memory"));
  TRY(const auto output, integer(stats, "console_bytes"));
  TRY(const auto dropped, integer(stats, "console_dropped_bytes"));
  std::string table = fmt::format(
      "{}: {} for {}, {} reboots, {} MiB of {} MiB resident, console {} bytes ({} dropped)\n\n"
      "{:<5} {:<8} {:>12} {:>12} {:>12} {:>10} {:>10} {:>12}\n",
      guest, state, duration(uptime), reboots, resident >> 20, memory >> 20, output, dropped,
      "VCPU", "STATE", "CPU", "MMIO READS", "MMIO WRITES", "UNCLAIMED", "UNDECODED", "INTERRUPTED");
  TRY(const auto* vcpus, member(stats, "vcpu"));
  if (!vcpus->is_array()) return fail(ErrorKind::kFailed, "\"vcpu\" in the reply is no list");
  for (std::size_t index = 0; const auto& vcpu : vcpus->get_array()) {
    TRY(const auto vcpu_state, text(vcpu, "state"));
    TRY(const auto cpu_ms, integer(vcpu, "cpu_ms"));
    TRY(const auto reads, integer(vcpu, "mmio_reads"));
    TRY(const auto writes, integer(vcpu, "mmio_writes"));
    TRY(const auto unclaimed, integer(vcpu, "unclaimed"));
    TRY(const auto undecoded, integer(vcpu, "undecoded"));
    TRY(const auto interrupted, integer(vcpu, "interrupted"));
    table +=
        fmt::format("{:<5} {:<8} {:>12} {:>12} {:>12} {:>10} {:>10} {:>12}\n", index++, vcpu_state,
                    duration(cpu_ms), reads, writes, unclaimed, undecoded, interrupted);
  }
  TRY(const auto devices, device_rows(stats));
  print(table + devices);
  return success();
}

namespace {

// What the guest's balloon says, with statistics that are new if the guest answers at once.
Result<json::value> fresh_balloon(ControlClient& client) {
  TRY(auto balloon, client.call("balloon.get", {}, kReplyTimeout));
  TRY(const auto before, integer(balloon, "statistics_updates"));
  // A guest that has never told any has no driver that would.
  const auto deadline = std::chrono::steady_clock::now() + kStatisticsTimeout;
  while (before != 0 && std::chrono::steady_clock::now() < deadline) {
    std::this_thread::sleep_for(kStatisticsPoll);
    TRY(balloon, client.call("balloon.get", {}, kReplyTimeout));
    TRY(const auto now, integer(balloon, "statistics_updates"));
    if (now != before) break;
  }
  return balloon;
}

std::string mebibytes(std::int64_t bytes) {
  return fmt::format("{}.{} MiB", bytes >> 20, (bytes & ((1 << 20) - 1)) * 10 >> 20);
}

}  // namespace

Result<> balloon_guest(const std::string& name, const std::optional<std::string>& size,
                       bool as_json) {
  std::optional<std::uint64_t> target;
  if (size) {
    TRY(target, parse_size(*size));
  }
  TRY(auto client, ControlClient::connect(name));
  if (target) {
    TRY(client.call("balloon.set", {{"target", *target}}, kReplyTimeout));
  }
  TRY(const auto balloon, fresh_balloon(client));
  if (as_json) {
    print(json::serialize(balloon) + "\n");
    return success();
  }
  TRY(const auto wanted, integer(balloon, "target"));
  TRY(const auto actual, integer(balloon, "actual"));
  TRY(const auto* statistics, member(balloon, "statistics"));
  std::string table = fmt::format("{:<20} {:>16}\n{:<20} {:>16}\n", "target", mebibytes(wanted),
                                  "actual", mebibytes(actual));
  if (const auto* values = statistics->if_object()) {
    for (const auto& [key, unused] : *values) {
      TRY(const auto value, integer(*statistics, key));
      const bool counts = key.ends_with("_faults") || key.starts_with("hugetlb_");
      table += fmt::format("{:<20} {:>16}\n", std::string_view(key),
                           counts ? std::to_string(value) : mebibytes(value));
    }
  }
  print(table);
  return success();
}

}  // namespace vmm
