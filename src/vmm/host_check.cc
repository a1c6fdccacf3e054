#include "vmm/host_check.h"

#include <fmt/format.h>
#include <sys/sysinfo.h>

#include <algorithm>
#include <bit>
#include <fstream>
#include <map>

#include "vmm/layout.h"

namespace vmm {
namespace {

constexpr unsigned kMinIpaBits = 36;

// The first line of a file of sysfs or procfs, "unknown" where it is not there.
std::string first_line(const char* path) {
  std::ifstream file(path);
  std::string line;
  return std::getline(file, line) ? line : "unknown";
}

std::string block_size_list(std::uint64_t sizes) {
  if (sizes == 0) return "no";
  std::string text;
  for (; sizes != 0; sizes &= sizes - 1) {
    const std::uint64_t kib = (sizes & (~sizes + 1)) >> 10;
    text += fmt::format("{}{}", text.empty() ? "stage-2 blocks of " : ", ",
                        kib >= 1 << 20 ? fmt::format("{} GiB", kib >> 20)
                        : kib >= 1024  ? fmt::format("{} MiB", kib >> 10)
                                       : fmt::format("{} KiB", kib));
  }
  return text;
}

}  // namespace

unsigned ipa_bits_for(std::uint64_t memory) {
  const auto bits = static_cast<unsigned>(std::bit_width(layout::kRamBase + memory - 1));
  return std::max(bits, kMinIpaBits);
}

std::uint64_t host_memory() {
  struct sysinfo info {};
  if (::sysinfo(&info) != 0) return 0;
  return std::uint64_t{info.totalram} * info.mem_unit;
}

Result<std::uint64_t> available_memory(bool hugetlb) {
  std::ifstream file("/proc/meminfo");
  std::map<std::string, std::uint64_t> values;  // in KiB, or counts
  std::string name;
  std::string line;
  for (std::uint64_t value = 0; file >> name >> value; std::getline(file, line)) {
    values[name] = value;
  }
  if (!values.contains("MemAvailable:")) {
    return fail(ErrorKind::kHost, "/proc/meminfo does not say how much memory is available");
  }
  return hugetlb ? values["HugePages_Free:"] * values["Hugepagesize:"] << 10
                 : (values["MemAvailable:"] + values["SwapFree:"]) << 10;
}

Result<> check_available(const GuestConfig& config, std::uint64_t available) {
  if (config.memory <= available) return success();
  return fail(ErrorKind::kHost, "{} brings {} MiB of memory, this host has {} MiB {}", config.name,
              config.memory >> 20, available >> 20,
              config.hugetlb ? "of free huge pages" : "available");
}

Result<> check_host(const GuestConfig& config, const kvm::Capabilities& host,
                    std::uint64_t host_memory) {
  if (!host.gicv3) {
    return fail(ErrorKind::kHost, "this host's KVM has no GICv3, which guests need");
  }
  if (!host.psci) return fail(ErrorKind::kHost, "this host's KVM has no PSCI 0.2");
  if (config.vcpus > host.max_vcpus) {
    return fail(ErrorKind::kHost, "{} wants {} vCPUs, KVM allows {} on this host", config.name,
                config.vcpus, host.max_vcpus);
  }
  const unsigned ipa_bits = ipa_bits_for(config.memory);
  if (ipa_bits > host.ipa_bits) {
    return fail(ErrorKind::kHost,
                "{} needs {} bits of guest-physical address, this host's CPU offers {}",
                config.name, ipa_bits, host.ipa_bits);
  }
  if (config.memory > host_memory) {
    return fail(ErrorKind::kHost, "{} wants {} MiB of memory, this host has {} MiB in all",
                config.name, config.memory >> 20, host_memory >> 20);
  }
  const auto feature = [&config](bool wanted, bool offered, const char* name) -> Result<> {
    if (!wanted || offered) return success();
    return fail(ErrorKind::kHost, "{} wants the CPU feature \"{}\", which this host lacks",
                config.name, name);
  };
  TRY(feature(config.cpu.sve, host.sve, "sve"));
  TRY(feature(config.cpu.pauth, host.pauth, "pauth"));
  return feature(config.cpu.pmu, host.pmu, "pmu");
}

std::vector<HostFeature> host_features(const kvm::Capabilities& host, std::uint64_t host_memory) {
  const auto yes_no = [](bool available) { return std::string(available ? "yes" : "no"); };
  return {
      {"KVM", true, true, "/dev/kvm, API version 12"},
      {"GICv3", host.gicv3, true, yes_no(host.gicv3)},
      {"PSCI", host.psci, true, yes_no(host.psci)},
      {"vCPUs", host.max_vcpus > 0, true,
       fmt::format("{} a guest here, {} by KVM", std::min(host.max_vcpus, layout::kMaxVcpus),
                   host.max_vcpus)},
      {"guest-physical address", host.ipa_bits >= kMinIpaBits, true,
       fmt::format("{} bits", host.ipa_bits)},
      {"host memory", host_memory >= layout::kMinMemory, true,
       fmt::format("{} MiB", host_memory >> 20)},
      {"ioeventfd, irqfd", host.ioeventfd && host.irqfd, false,
       yes_no(host.ioeventfd && host.irqfd)},
      {"abort injection", host.inject_abort, false, yes_no(host.inject_abort)},
      {"SVE", host.sve, false, yes_no(host.sve)},
      {"pointer authentication", host.pauth, false, yes_no(host.pauth)},
      {"PMU", host.pmu, false, yes_no(host.pmu)},
      {"dirty log, hardware", host.hw_dirty_log, false,
       host.hw_dirty_log ? "stage-2 DBM" : "no: the host kernel lacks the series, or the CPU DBM"},
      {"dirty log, manual protect", host.manual_dirty_protect && host.dirty_initially_set, false,
       yes_no(host.manual_dirty_protect && host.dirty_initially_set)},
      {"eager page split", host.eager_split, false, block_size_list(host.block_sizes)},
      {"transparent huge pages", true, false,
       first_line("/sys/kernel/mm/transparent_hugepage/enabled")},
      {"hugetlb pool", true, false,
       first_line("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages") + " pages of 2 MiB"},
  };
}

}  // namespace vmm
