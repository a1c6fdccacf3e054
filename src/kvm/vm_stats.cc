#include "kvm/vm_stats.h"

#include <linux/kvm.h>
#include <unistd.h>

#include <cstring>
#include <vector>

#include "kvm/ioctl.h"
#include "kvm/vm.h"

namespace vmm::kvm {
namespace {

Result<> read_at(const Fd& fd, void* into, std::size_t size, std::uint64_t offset) {
  const auto count = ::pread(fd.get(), into, size, static_cast<off_t>(offset));
  if (count < 0) return fail_errno(ErrorKind::kHost, "reading the VM's statistics failed");
  if (static_cast<std::size_t>(count) != size) {
    return fail(ErrorKind::kHost, "the VM's statistics end at {} of {} bytes", count, size);
  }
  return success();
}

}  // namespace

Result<VmStats> VmStats::open(const Vm& vm) {
  TRY(const auto fd, KVM_CALL(vm.fd(), KVM_GET_STATS_FD, 0));
  return VmStats(Fd(fd));
}

Result<std::optional<std::uint64_t>> VmStats::read(std::string_view name) const {
  kvm_stats_header header{};
  TRY(read_at(fd_, &header, sizeof header, 0));
  // A descriptor is the fixed part and the name, which is padded to header.name_size bytes.
  std::vector<char> descriptor(sizeof(kvm_stats_desc) + header.name_size);
  for (std::uint32_t i = 0; i < header.num_desc; ++i) {
    TRY(read_at(fd_, descriptor.data(), descriptor.size(),
                header.desc_offset + std::uint64_t{i} * descriptor.size()));
    const char* const text = descriptor.data() + sizeof(kvm_stats_desc);
    if (std::string_view(text, ::strnlen(text, header.name_size)) != name) continue;
    kvm_stats_desc fixed{};
    std::memcpy(&fixed, descriptor.data(), sizeof fixed);
    std::uint64_t value = 0;
    TRY(read_at(fd_, &value, sizeof value, header.data_offset + fixed.offset));
    return value;
  }
  return std::nullopt;
}

}  // namespace vmm::kvm
