#include "vmm/restore_command.h"

#include <chrono>
#include <cstdlib>
#include <memory>
#include <utility>

#include "base/log.h"
#include "kvm/system.h"
#include "vmm/detach.h"
#include "vmm/guest_process.h"
#include "vmm/host_check.h"
#include "vmm/incoming_config.h"
#include "vmm/kvm_machine.h"
#include "vmm/restored_guest.h"
#include "vmm/runtime_dir.h"
#include "vmm/snapshot_disks.h"

namespace vmm {
namespace {

using migration::SnapshotReader;

// The guest's vCPUs may wait within the kernel for memory that will never come, and nothing that
// has to wait for them can be done any more: the guest ends as with a power cut.
[[noreturn]] void end_damaged(const Error& error) {
  log(LogLevel::kError, "{}; the guest has ended", error.message());
  std::_Exit(static_cast<int>(ErrorKind::kFailed));
}

Result<> run_restored(std::shared_ptr<const SnapshotReader> reader, GuestProcess& process,
                      std::chrono::steady_clock::time_point begun, Detached* detached) {
  TRY(process.start_incoming(reader->manifest().cpu_identity));
  RestoredGuest restored(process.loop(), process.guest(), end_damaged);
  TRY(restored.start(std::move(reader)));
  const auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(
      std::chrono::steady_clock::now() - begun);
  log(LogLevel::kInfo, "the guest is restored after {} ms", ms.count());
  if (detached != nullptr) detached->report_started();
  return process.run(false);
}

Result<> restore_here(const RestoreOptions& options, Detached* detached) {
  const auto begun = std::chrono::steady_clock::now();
  IncomingOptions incoming{{}, options.allow_path, options.name};
  if (options.config) {
    TRY(incoming.config, load_guest_config(*options.config));
  }
  if (options.name) {
    TRY(with_context(check_guest_name(*options.name), "--name"));
  }
  TRY(const auto system, kvm::System::open());
  TRY(auto opened, SnapshotReader::open(options.file));
  auto reader = std::make_shared<const SnapshotReader>(std::move(opened));
  TRY(auto config, incoming_config(reader->manifest(), incoming));
  TRY(const auto capabilities, system.capabilities());
  TRY(check_host(config, capabilities, host_memory()));
  TRY(const auto available, available_memory(config.hugetlb));
  TRY(check_available(config, available));
  TRY(const auto dir, runtime_dir());
  TRY(auto name, GuestName::claim(dir, config.name));
  // Locked before they are looked at, so that they stay what they are then.
  TRY(auto resources, GuestResources::open(config));
  TRY(check_disk_sizes(reader->manifest(), resources));
  TRY(check_disks_unchanged(reader->disks(), config, resources));
  if (detached != nullptr) {
    TRY(detached->log_to(name.log_path()));
  }
  GuestProcess process(std::move(config), std::move(resources), std::move(name),
                       kvm_machines(system));
  return run_restored(std::move(reader), process, begun, detached);
}

}  // namespace

Result<> restore_guest(const RestoreOptions& options) {
  return run_detachable(options.detach,
                        [&](Detached* detached) { return restore_here(options, detached); });
}

}  // namespace vmm
