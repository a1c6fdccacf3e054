#include "vmm/guest_process.h"

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/post.hpp>

#include "base/log.h"
#include "vmm/balloon_control.h"
#include "vmm/guest_statistics.h"

namespace vmm {
namespace asio = boost::asio;
namespace json = boost::json;

namespace {

constexpr std::chrono::seconds kPressInterval{5};

}  // namespace

GuestProcess::GuestProcess(GuestConfig config, GuestResources resources, GuestName name,
                           MachineMaker maker)
    : config_(std::move(config)),
      resources_(std::move(resources)),
      name_(std::move(name)),
      maker_(std::move(maker)),
      signals_(loop_, SIGTERM, SIGINT, SIGHUP),
      window_changes_(loop_, SIGWINCH),
      console_(loop_),
      virtio_console_(loop_),
      guest_(
          loop_, console_, virtio_console(),
          [this](Machine::EventHandler on_event) {
            // A guest that came from elsewhere boots here when it reboots.
            const auto identity = std::exchange(identity_, std::nullopt);
            return maker_({config_, resources_, console_, virtio_console_, loop_,
                           identity ? &*identity : nullptr},
                          std::move(on_event));
          },
          [this](Result<> result) {
            result_ = std::move(result);
            loop_.stop();
          }),
      migration_(loop_, config_, resources_, guest_),
      snapshot_(loop_, config_, resources_, guest_),
      dirty_rate_(loop_, guest_, migration_),
      next_press_(loop_) {}

Result<> GuestProcess::start() {
  TRY(open());
  TRY(guest_.start());
  wait_for_signal();
  return success();
}

Result<> GuestProcess::start_incoming(std::vector<std::byte> identity) {
  TRY(open());
  identity_ = std::move(identity);
  TRY(guest_.start_incoming());
  wait_for_signal();
  return success();
}

Result<> GuestProcess::open() {
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
  migration_.add_methods(*server_);
  snapshot_.add_methods(*server_);
  dirty_rate_.add_methods(*server_);
  return success();
}

Result<> GuestProcess::run(bool foreground) {
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

Console* GuestProcess::virtio_console() {
  return config_.virtio_console ? &virtio_console_ : nullptr;
}

Console& GuestProcess::terminal_console() {
  return config_.virtio_console ? virtio_console_ : console_;
}

void GuestProcess::add_methods() {
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
  server_->add_method("guest.stop",
                      [this, done](const json::object&) { return done(guest_.press_power_key()); });
  server_->add_method("guest.kill", [this](const json::object&) -> Result<json::value> {
    TRY(guest_.check_killable());
    // The reply goes out before the loop, and with it the connection, ends.
    asio::post(loop_, [this] {
      asio::post(loop_, [this] {
        static_cast<void>(
            guest_.kill(make_error(ErrorKind::kFailed, "{} was killed by command", config_.name)));
      });
    });
    return json::value(json::object());
  });
}

Result<> GuestProcess::ask_to_shut_down() {
  // One that is being handed over is asked when it comes back, if it does.
  if (guest_.state() != GuestState::kHandover) {
    TRY(guest_.press_power_key());
  }
  next_press_.expires_after(kPressInterval);
  next_press_.async_wait([this](const boost::system::error_code& error) {
    // A guest that was paused in between is not pressed on.
    if (!error) static_cast<void>(ask_to_shut_down());
  });
  return success();
}

void GuestProcess::request_shutdown() {
  if (on_signal_) {
    on_signal_();
    return;
  }
  if (!shutdown_requested_ && ask_to_shut_down()) {
    shutdown_requested_ = true;
    log(LogLevel::kWarning, "asked {} to shut down; once more ends it at once", config_.name);
    return;
  }
  const auto killed = guest_.kill(
      make_error(ErrorKind::kInterrupted, "{} was ended before it had shut down", config_.name));
  if (!killed) log(LogLevel::kWarning, "{}", killed.error().message());
}

void GuestProcess::wait_for_signal() {
  signals_.async_wait([this](const boost::system::error_code& error, int) {
    if (error) return;
    wait_for_signal();
    request_shutdown();
  });
}

void GuestProcess::follow_terminal_size() {
  if (const auto size = terminal_size()) terminal_console().resize(*size);
  window_changes_.async_wait([this](const boost::system::error_code& error, int) {
    if (!error) follow_terminal_size();
  });
}

asio::awaitable<void> GuestProcess::pass_input() {
  for (;;) {
    const bool escaped = co_await read_terminal(
        [this](std::span<const std::byte> bytes) { terminal_console().input(bytes); },
        [this]() -> asio::awaitable<void> { co_await terminal_console().input_space(); });
    if (!escaped) co_return;
    request_shutdown();
  }
}

}  // namespace vmm
