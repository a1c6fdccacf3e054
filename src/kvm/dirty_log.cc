#include "kvm/dirty_log.h"

#include <linux/kvm.h>
#include <unistd.h>

#include "kvm/hw_dirty_log.h"
#include "kvm/ioctl.h"

namespace vmm::kvm {
namespace {

// Bytes of guest memory whose mappings are split at once. Large enough that the page tables needed
// are allocated in batches, and a stage-2 block of 4 KiB pages, which each such kernel offers.
constexpr std::uint64_t kSplitChunk = 2 * 1024 * 1024;

Result<std::uint64_t> check(const Vm& vm, long extension) {
  TRY(const auto value, KVM_CALL(vm.fd(), KVM_CHECK_EXTENSION, extension));
  return static_cast<std::uint64_t>(static_cast<unsigned>(value));
}

Result<> enable(const Vm& vm, std::uint32_t capability, std::uint64_t argument) {
  kvm_enable_cap cap{};
  cap.cap = capability;
  cap.args[0] = argument;
  TRY(KVM_CALL(vm.fd(), KVM_ENABLE_CAP, &cap));
  return success();
}

Result<> prepare(const Vm& vm) {
  constexpr std::uint64_t kWanted =
      KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET;
  TRY(const auto protect, check(vm, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2));
  if ((protect & kWanted) == kWanted) {
    TRY(with_context(enable(vm, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, kWanted),
                     "manual dirty log protection"));
  }
  TRY(const auto blocks, check(vm, KVM_CAP_ARM_SUPPORTED_BLOCK_SIZES));
  if ((blocks & kSplitChunk) != 0) {
    TRY(with_context(enable(vm, KVM_CAP_ARM_EAGER_SPLIT_CHUNK_SIZE, kSplitChunk),
                     "eager page splitting"));
  }
  return success();
}

}  // namespace

Result<std::unique_ptr<KvmDirtyLog>> KvmDirtyLog::create(Vm& vm, std::uint32_t slot,
                                                         std::uint64_t ipa,
                                                         std::span<std::byte> memory) {
  TRY(prepare(vm));
  TRY(const auto modes, check(vm, KVM_CAP_ARM_HW_DIRTY_LOG));
  TRY(const auto has_stats, check(vm, KVM_CAP_BINARY_STATS_FD));
  std::optional<VmStats> stats;
  if (has_stats != 0) {
    TRY(stats, VmStats::open(vm));
  }
  std::unique_ptr<KvmDirtyLog> log(new KvmDirtyLog(vm, std::move(stats), slot, ipa, memory,
                                                   (modes & (1U << KVM_ARM_DIRTY_LOG_HW)) != 0));
  TRY(log->set_slot(false));
  return log;
}

std::uint64_t KvmDirtyLog::pages() const {
  return memory_.size() / kPageSize;
}

bool KvmDirtyLog::offers(DirtyLogMode mode) const {
  return mode == DirtyLogMode::kWriteProtect || hardware_;
}

Result<> KvmDirtyLog::start(DirtyLogMode mode) {
  if (on_) return fail(ErrorKind::kHost, "the dirty log is on already");
  auto started = turn_on(mode);
  if (started) {
    on_ = true;
    return started;
  }
  on_ = true;  // as far as is known: stop() undoes whatever was done
  const auto stopped = stop();
  if (!stopped) return fail(std::move(started).error().add_context(stopped.error().message()));
  return started;
}

Result<> KvmDirtyLog::turn_on(DirtyLogMode mode) {
  if (const auto host_page = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
      host_page != kPageSize) {
    return fail(ErrorKind::kHost, "this host's kernel has pages of {} bytes, {} are supported",
                host_page, kPageSize);
  }
  TRY(const auto protect, check(vm_, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2));
  if ((protect & KVM_DIRTY_LOG_INITIALLY_SET) == 0) {
    return fail(ErrorKind::kHost,
                "this kernel lacks dirty logging with all pages set at first "
                "(KVM_DIRTY_LOG_INITIALLY_SET, Linux 5.8)");
  }
  // The mode first: with all pages set there is nothing to arm or protect before the first clear.
  TRY(request_mode(mode));
  TRY(set_slot(true));
  return expect_mode(mode);
}

Result<> KvmDirtyLog::set_mode(DirtyLogMode mode) {
  if (!on_) return fail(ErrorKind::kHost, "the dirty log is off and has no mode");
  TRY(request_mode(mode));
  return expect_mode(mode);
}

Result<> KvmDirtyLog::expect_mode(DirtyLogMode mode) const {
  TRY(const auto found, mode_in_force());
  if (found == mode) return success();
  return fail(ErrorKind::kHost, "dirty logging is in mode {} where {} was asked for",
              to_string(found), to_string(mode));
}

Result<DirtyLogMode> KvmDirtyLog::mode_in_force() const {
  TRY(const auto mode, statistic("hw_dirty_log_mode"));
  return mode == KVM_ARM_DIRTY_LOG_HW ? DirtyLogMode::kHardware : DirtyLogMode::kWriteProtect;
}

Result<std::uint64_t> KvmDirtyLog::armed() const {
  return statistic("hw_dirty_leaves_armed");
}

Result<> KvmDirtyLog::get(std::span<std::uint64_t> bits) {
  if (bits.size() != dirty_words(pages())) {
    return fail(ErrorKind::kHost, "{} words for the log of {} pages", bits.size(), pages());
  }
  kvm_dirty_log log{};
  log.slot = slot_;
  log.dirty_bitmap = bits.data();
  TRY(KVM_CALL(vm_.fd(), KVM_GET_DIRTY_LOG, &log));
  return success();
}

Result<> KvmDirtyLog::clear(PageRange range, std::span<const std::uint64_t> bits) {
  if (range.first > pages() || range.count > pages() - range.first ||
      bits.size() < dirty_words(range.count)) {
    return fail(ErrorKind::kHost, "pages {} + {} of the log of {} pages, from {} words",
                range.first, range.count, pages(), bits.size());
  }
  kvm_clear_dirty_log log{};
  log.slot = slot_;
  log.first_page = range.first;
  log.num_pages = static_cast<std::uint32_t>(range.count);
  // The kernel only reads it.
  log.dirty_bitmap = const_cast<std::uint64_t*>(bits.data());
  TRY(KVM_CALL(vm_.fd(), KVM_CLEAR_DIRTY_LOG, &log));
  return success();
}

Result<> KvmDirtyLog::stop() {
  if (!on_) return success();
  auto off = set_slot(false);
  // Once it is off the mode is of no effect, but it must not surprise who turns logging on next.
  auto mode = request_mode(DirtyLogMode::kWriteProtect);
  if (!off) return off;
  on_ = false;
  return mode;
}

// A counter that kernels without hardware logging do not have: there it is 0, which is also the
// mode that they have.
Result<std::uint64_t> KvmDirtyLog::statistic(std::string_view name) const {
  if (!stats_) return std::uint64_t{0};
  TRY(const auto value, stats_->read(name));
  return value.value_or(0);
}

Result<> KvmDirtyLog::set_slot(bool logging) {
  return vm_.set_memory(slot_, ipa_, memory_, logging);
}

Result<> KvmDirtyLog::request_mode(DirtyLogMode mode) {
  if (!offers(mode)) {
    return fail(ErrorKind::kHost,
                "this kernel does not log dirty pages in hardware "
                "(KVM_CAP_ARM_HW_DIRTY_LOG)");
  }
  if (!hardware_) return success();  // write protection is all there is
  return with_context(
      enable(vm_, KVM_CAP_ARM_HW_DIRTY_LOG,
             mode == DirtyLogMode::kHardware ? KVM_ARM_DIRTY_LOG_HW : KVM_ARM_DIRTY_LOG_WRPROT),
      fmt::format("dirty logging in mode {}", to_string(mode)));
}

}  // namespace vmm::kvm
