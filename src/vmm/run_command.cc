#include "vmm/run_command.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/json/array.hpp>
#include <boost/json/serialize.hpp>

#include <algorithm>
#include <fstream>

#include "base/log.h"
#include "kvm/system.h"
#include "vmm/balloon_control.h"
#include "vmm/console.h"
#include "vmm/control_server.h"
#include "vmm/detach.h"
#include "vmm/guest.h"
#include "vmm/guest_config.h"
#include "vmm/guest_resources.h"
#include "vmm/host_check.h"
#include "vmm/kvm_machine.h"
#include "vmm/runtime_dir.h"
#include "vmm/terminal.h"

namespace vmm {
namespace asio = boost::asio;
namespace json = boost::json;

namespace {

constexpr std::chrono::seconds kPressInterval{5};

// Resident memory of this process, in bytes.
std::uint64_t resident_memory() {
  std::ifstream statm("/proc/self/statm");
  std::uint64_t size = 0;
  std::uint64_t resident = 0;
  statm >> size >> resident;
  return resident * static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
}

json::object describe(const GuestConfig& config, const Guest& guest) {
  return {{"name", config.name},     {"state", to_string(guest.state())},   {"vcpus", config.vcpus},
          {"memory", config.memory}, {"uptime_ms", guest.uptime().count()}, {"pid", ::getpid()},
          {"version", VMM_VERSION}};
}

std::string_view to_string(VcpuThread::State state) {
  switch (state) {
    case VcpuThread::State::kPaused:
      return "paused";
    case VcpuThread::State::kRunning:
      return "running";
    case VcpuThread::State::kStopped:
      break;
  }
  return "stopped";
}

json::object statistics(const GuestConfig& config, const Guest& guest, const Console& serial,
                        const Console& virtio) {
  json::object stats = describe(config, guest);
  stats["reboots"] = guest.reboots();
  stats["resident"] = resident_memory();
  stats["console_bytes"] = serial.output_bytes() + virtio.output_bytes();
  stats["console_dropped_bytes"] = serial.dropped_bytes() + virtio.dropped_bytes();
  json::array vcpus;
  for (const auto& vcpu : guest.vcpu_stats()) {
    vcpus.push_back(json::object{{"state", to_string(vcpu.state)},
                                 {"cpu_ms", vcpu.cpu_time_ns / 1'000'000},
                                 {"mmio_reads", vcpu.mmio_reads},
                                 {"mmio_writes", vcpu.mmio_writes},
                                 {"unclaimed", vcpu.unclaimed},
                                 {"undecoded", vcpu.undecoded},
                                 {"interrupted", vcpu.interrupted}});
  }
  stats["vcpu"] = std::move(vcpus);
  json::array devices;
  for (const auto& device : guest.device_stats()) {
    json::object counters;
    for (const auto& [counter, value] : device.counters) counters[counter] = value;
    devices.push_back(json::object{{"name", device.name}, {"counters", std::move(counters)}});
  }
  stats["devices"] = std::move(devices);
  return stats;
}

// Everything that lives as long as the guest's process, on one event loop.
class GuestProcess {
 public:
  GuestProcess(kvm::System system, GuestConfig config, GuestResources resources, GuestName name)
      : config_(std::move(config)),
        resources_(std::move(resources)),
        system_(std::move(system)),
        name_(std::move(name)),
        console_(loop_),
        virtio_console_(loop_),
        guest_(
            loop_, console_, virtio_console(),
            [this](Machine::EventHandler on_event) {
              return make_kvm_machine(system_, config_, resources_, console_, virtio_console_,
                                      loop_, std::move(on_event));
            },
            [this](Result<> result) {
              result_ = std::move(result);
              loop_.stop();
            }) {}

  // Starts the guest; on_started is called once it runs.
  [[nodiscard]] Result<> run(bool foreground, const std::function<void()>& on_started) {
    if (config_.console_file) {
      const std::string path = config_.console_file->string();
      auto file = open_file(path, O_WRONLY | O_CREAT | O_APPEND, 0600, ErrorKind::kUsage);
      if (!file) return fail(std::move(file).error().add_context("console file"));
      TRY(file_output_, FdOutput::open(loop_, file.value().get()));
      console_.attach(*file_output_);
      virtio_console_.attach(*file_output_);
    }
    TRY(server_, ControlServer::listen(loop_, name_.socket_path(), console_, virtio_console()));
    add_methods();
    add_balloon_methods(*server_, guest_, config_.memory);
    TRY(guest_.start());
    wait_for_signal();
    on_started();
    if (!foreground) {
      loop_.run();
      return std::move(result_);
    }
    TRY(const auto terminal, RawTerminal::enter());
    TRY(terminal_output_, FdOutput::open(loop_, STDOUT_FILENO));
    terminal_console().attach(*terminal_output_);
    asio::co_spawn(loop_, pass_input(), asio::detached);
    follow_terminal_size();
    loop_.run();
    terminal_output_->drain();
    return std::move(result_);
  }

 private:
  [[nodiscard]] Console* virtio_console() {
    return config_.virtio_console ? &virtio_console_ : nullptr;
  }
  // The console that is on the terminal in the foreground.
  [[nodiscard]] Console& terminal_console() {
    return config_.virtio_console ? virtio_console_ : console_;
  }

  void add_methods() {
    const auto done = [](Result<> result) -> Result<json::value> {
      if (!result) return fail(std::move(result).error());
      return json::value(json::object());
    };
    server_->add_method("guest.info", [this](const json::object&) -> Result<json::value> {
      return json::value(describe(config_, guest_));
    });
    server_->add_method("guest.stats", [this](const json::object&) -> Result<json::value> {
      return json::value(statistics(config_, guest_, console_, virtio_console_));
    });
    server_->add_method("guest.pause",
                        [this, done](const json::object&) { return done(guest_.pause()); });
    server_->add_method("guest.resume",
                        [this, done](const json::object&) { return done(guest_.resume()); });
    server_->add_method(
        "guest.stop", [this, done](const json::object&) { return done(guest_.press_power_key()); });
    server_->add_method("guest.kill", [this](const json::object&) -> Result<json::value> {
      // The reply goes out before the loop, and with it the connection, ends.
      asio::post(loop_, [this] {
        asio::post(loop_, [this] {
          guest_.kill(make_error(ErrorKind::kFailed, "{} was killed by command", config_.name));
        });
      });
      return json::value(json::object());
    });
  }

  // Presses the power key, and again every few seconds until the guest has ended: one that is still
  // booting has nobody yet to see the first press.
  [[nodiscard]] Result<> ask_to_shut_down() {
    TRY(guest_.press_power_key());
    next_press_.expires_after(kPressInterval);
    next_press_.async_wait([this](const boost::system::error_code& error) {
      // A guest that was paused in between is not pressed on.
      if (!error) static_cast<void>(ask_to_shut_down());
    });
    return success();
  }

  // The first signal asks the guest to shut down, the next one ends it.
  void request_shutdown() {
    if (!shutdown_requested_ && ask_to_shut_down()) {
      shutdown_requested_ = true;
      log(LogLevel::kWarning, "asked {} to shut down; once more ends it at once", config_.name);
      return;
    }
    guest_.kill(
        make_error(ErrorKind::kInterrupted, "{} was ended before it had shut down", config_.name));
  }

  void wait_for_signal() {
    signals_.async_wait([this](const boost::system::error_code& error, int) {
      if (error) return;
      wait_for_signal();
      request_shutdown();
    });
  }

  void follow_terminal_size() {
    if (const auto size = terminal_size()) terminal_console().resize(*size);
    window_changes_.async_wait([this](const boost::system::error_code& error, int) {
      if (!error) follow_terminal_size();
    });
  }

  asio::awaitable<void> pass_input() {
    for (;;) {
      const bool escaped = co_await read_terminal(
          [this](std::span<const std::byte> bytes) { terminal_console().input(bytes); },
          [this]() -> asio::awaitable<void> { co_await terminal_console().input_space(); });
      if (!escaped) co_return;
      request_shutdown();
    }
  }

  GuestConfig config_;
  GuestResources resources_;
  kvm::System system_;
  GuestName name_;
  asio::io_context loop_{1};
  asio::signal_set signals_{loop_, SIGTERM, SIGINT, SIGHUP};
  asio::signal_set window_changes_{loop_, SIGWINCH};
  Console console_;
  Console virtio_console_;  // in use where the guest has one
  std::unique_ptr<FdOutput> file_output_;
  std::unique_ptr<FdOutput> terminal_output_;
  std::unique_ptr<ControlServer> server_;
  Guest guest_;
  asio::steady_timer next_press_{loop_};
  bool shutdown_requested_ = false;
  Result<> result_ = success();
};

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
  const auto log_path = name.log_path();
  if (detached != nullptr) {
    TRY(detached->redirect(log_path));
    if (!log_to_file(log_path, LogLevel::kInfo)) {
      return fail(ErrorKind::kFailed, "cannot open {}", log_path.string());
    }
  }
  GuestProcess process(std::move(system), std::move(config), std::move(resources), std::move(name));
  const auto result = process.run(detached == nullptr, [detached] {
    if (detached != nullptr) detached->report_started();
  });
  if (detached != nullptr) {
    if (result) {
      // Nobody needs the log of a guest that ended well.
      static_cast<void>(::unlink(log_path.c_str()));
    } else {
      log(LogLevel::kError, "{}", result.error().message());
    }
  }
  return result;
}

}  // namespace

Result<> run_guest(const RunOptions& options) {
  if (!options.detach) return run_here(options, nullptr);
  TRY(auto detached, Detached::split());
  if (!detached) return success();
  const auto result = run_here(options, &*detached);
  if (!result) detached->report_failure(result.error());
  // In the child nobody is left to print to.
  std::exit(result ? 0 : static_cast<int>(result.error().kind()));
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
