#include "vmm/receive_command.h"

#include <unistd.h>

#include "base/log.h"
#include "kvm/system.h"
#include "migration/decision_record.h"
#include "migration/destination.h"
#include "migration/tcp_channel.h"
#include "vmm/detach.h"
#include "vmm/guest_process.h"
#include "vmm/host_check.h"
#include "vmm/incoming_config.h"
#include "vmm/incoming_migration.h"
#include "vmm/kvm_machine.h"
#include "vmm/runtime_dir.h"

namespace vmm {
namespace {

// The process of the guest that a manifest describes, with its machine made. Everything that can be
// refused is, here.
Result<std::unique_ptr<GuestProcess>> prepare(const migration::Manifest& manifest,
                                              const IncomingOptions& options,
                                              const kvm::System& system) {
  TRY(auto config, incoming_config(manifest, options));
  TRY(const auto capabilities, system.capabilities());
  TRY(check_host(config, capabilities, host_memory()));
  TRY(const auto available, available_memory(config.hugetlb));
  TRY(check_available(config, available));
  TRY(const auto dir, runtime_dir());
  TRY(auto name, GuestName::claim(dir, config.name));
  TRY(auto resources, GuestResources::prepare(config));
  TRY(check_disk_sizes(manifest, resources));
  auto process = std::make_unique<GuestProcess>(std::move(config), std::move(resources),
                                                std::move(name), kvm_machines(system));
  TRY(process->start_incoming(manifest.cpu_identity));
  return process;
}

Result<> receive_here(const ReceiveOptions& options, Detached* detached) {
  IncomingOptions incoming{{}, options.allow_path, options.name};
  if (options.config) {
    TRY(incoming.config, load_guest_config(*options.config));
  }
  if (options.name) {
    auto checked = check_guest_name(*options.name);
    if (!checked) return fail(std::move(checked).error().add_context("--name"));
  }
  TRY(const auto system, kvm::System::open());
  TRY(auto records, migration::DecisionRecords::open_default());
  TRY(const auto address, migration::TcpAddress::parse(options.listen));
  TRY(auto listener, migration::TcpListener::listen(address));
  TRY(const auto acceptor, make_acceptor(listener, options.channels, options.allow_peers));
  migration::Destination destination(*acceptor, records, options.peer_timeout);
  log(LogLevel::kInfo, "waiting for a guest on {}", listener.address().text());
  if (detached != nullptr) {
    TRY(const auto dir, runtime_dir());
    TRY(detached->log_to(dir / fmt::format("receive-{}.log", ::getpid())));
    detached->report_started();
  }
  for (;;) {
    TRY(const auto manifest, destination.await_manifest());
    auto process = prepare(manifest, incoming, system);
    if (!process) {
      log(LogLevel::kWarning, "refused {}: {}", manifest.guest, process.error().message());
      destination.refuse(process.error());
      continue;
    }
    IncomingMigration migration(*process.value(), destination, manifest.paused);
    TRY(migration.start());
    return process.value()->run(false);
  }
}

}  // namespace

Result<> receive_guest(const ReceiveOptions& options) {
  return run_detachable(options.detach,
                        [&](Detached* detached) { return receive_here(options, detached); });
}

}  // namespace vmm
