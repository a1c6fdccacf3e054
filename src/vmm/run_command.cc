#include "vmm/run_command.h"

#include <fmt/format.h>

#include <boost/json/array.hpp>
#include <boost/json/serialize.hpp>

#include "base/log.h"
#include "kvm/system.h"
#include "vmm/detach.h"
#include "vmm/guest_config.h"
#include "vmm/guest_process.h"
#include "vmm/guest_resources.h"
#include "vmm/host_check.h"
#include "vmm/kvm_machine.h"
#include "vmm/runtime_dir.h"

namespace vmm {
namespace json = boost::json;

namespace {

// Runs the guest in this process. detached is where a start in the background is reported.
Result<> run_here(const RunOptions& options, Detached* detached) {
  TRY(auto config, load_guest_config(options.config));
  if (options.name) {
    config.name = *options.name;
    auto checked = check_guest_name(config.name);
    if (!checked) return fail(std::move(checked).error().add_context("--name"));
  }
  if (options.console_file) config.console_file = options.console_file;
  TRY(auto system, kvm::System::open());
  TRY(const auto capabilities, system.capabilities());
  TRY(check_host(config, capabilities, host_memory()));
  TRY(const auto dir, runtime_dir());
  TRY(auto name, GuestName::claim(dir, config.name));
  TRY(auto resources, GuestResources::open(config));
  if (detached != nullptr) {
    TRY(detached->log_to(name.log_path()));
  }
  GuestProcess process(std::move(config), std::move(resources), std::move(name),
                       kvm_machines(system));
  TRY(process.start());
  if (detached != nullptr) detached->report_started();
  return process.run(detached == nullptr);
}

}  // namespace

Result<> run_guest(const RunOptions& options) {
  return run_detachable(options.detach,
                        [&](Detached* detached) { return run_here(options, detached); });
}

Result<> check_this_host(bool as_json) {
  TRY(const auto system, kvm::System::open());
  TRY(const auto capabilities, system.capabilities());
  const auto features = host_features(capabilities, host_memory());
  json::array list;
  std::string table;
  std::string missing;
  for (const auto& feature : features) {
    list.push_back(json::object{{"name", feature.name},
                                {"available", feature.available},
                                {"required", feature.required},
                                {"detail", feature.detail}});
    table += fmt::format("{:<9} {:<26} {}\n",
                         feature.available  ? "ok"
                         : feature.required ? "MISSING"
                                            : "absent",
                         feature.name, feature.detail);
    if (feature.required && !feature.available) missing += " " + feature.name;
  }
  const std::string text = as_json ? json::serialize(list) + "\n" : table;
  static_cast<void>(::fwrite(text.data(), 1, text.size(), stdout));
  if (!missing.empty()) {
    return fail(ErrorKind::kHost, "this host cannot run guests, it lacks:{}", missing);
  }
  return success();
}

}  // namespace vmm
