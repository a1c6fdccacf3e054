#include "vmm/guest.h"

#include <boost/asio/post.hpp>

#include "base/log.h"

namespace vmm {
namespace {

// How long the power key is held: drivers read the line some milliseconds after its interrupt, and
// a guest on a busy host may not get to run for much longer than that.
constexpr std::chrono::seconds kKeyPress{1};

}  // namespace

std::string_view to_string(GuestState state) {
  switch (state) {
    case GuestState::kRunning:
      return "running";
    case GuestState::kPaused:
      return "paused";
    case GuestState::kEnded:
      return "ended";
  }
  return "unknown";
}

Guest::Guest(boost::asio::io_context& loop, Console& console, MachineFactory factory,
             EndHandler on_end)
    : loop_(loop),
      console_(console),
      factory_(std::move(factory)),
      on_end_(std::move(on_end)),
      key_release_(loop),
      started_(std::chrono::steady_clock::now()) {}

Guest::~Guest() {
  drop_machine();
}

Result<> Guest::start() {
  TRY(make_machine());
  return resume();
}

Result<> Guest::make_machine() {
  const auto generation = ++generation_;
  TRY(machine_, factory_([this, generation](VcpuEvent event) {
        boost::asio::post(loop_, [this, generation, event = std::move(event)] {
          if (generation == generation_) handle_event(event);
        });
      }));
  console_.connect_uart(
      [this](std::span<const std::byte> bytes) { return machine_->serial_input(bytes); });
  return success();
}

void Guest::drop_machine() {
  console_.connect_uart({});
  key_release_.cancel();
  ++generation_;
  machine_.reset();
}

Result<> Guest::pause() {
  if (state_ == GuestState::kEnded) return fail(ErrorKind::kFailed, "the guest has ended");
  if (state_ == GuestState::kRunning) machine_->pause();
  state_ = GuestState::kPaused;
  return success();
}

Result<> Guest::resume() {
  if (state_ == GuestState::kEnded) return fail(ErrorKind::kFailed, "the guest has ended");
  if (state_ == GuestState::kPaused) machine_->resume();
  state_ = GuestState::kRunning;
  return success();
}

Result<> Guest::press_power_key() {
  if (state_ != GuestState::kRunning) {
    return fail(ErrorKind::kFailed, "the guest is {} and cannot shut down: resume or kill it",
                to_string(state_));
  }
  machine_->set_power_key(true);
  key_release_.expires_after(kKeyPress);
  key_release_.async_wait([this](const boost::system::error_code& error) {
    if (!error && machine_) machine_->set_power_key(false);
  });
  return success();
}

void Guest::kill(Error reason) {
  end(fail(std::move(reason)));
}

void Guest::handle_event(const VcpuEvent& event) {
  if (const Error* error = std::get_if<Error>(&event)) {
    end(fail(*error));
    return;
  }
  switch (std::get<GuestEvent>(event)) {
    case GuestEvent::kShutdown:
      end(success());
      break;
    case GuestEvent::kReset:
      reboot();
      break;
    case GuestEvent::kCrash:
      end(fail(ErrorKind::kFailed, "the guest reported a crash of its own"));
      break;
  }
}

void Guest::reboot() {
  log(LogLevel::kInfo, "the guest reboots");
  ++reboots_;
  drop_machine();
  if (auto made = make_machine(); !made) {
    end(fail(std::move(made).error().add_context("cannot reboot the guest")));
    return;
  }
  if (state_ == GuestState::kRunning) machine_->resume();
}

void Guest::end(Result<> result) {
  if (state_ == GuestState::kEnded) return;
  state_ = GuestState::kEnded;
  drop_machine();
  console_.flush();
  on_end_(std::move(result));
}

std::chrono::milliseconds Guest::uptime() const {
  return std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::steady_clock::now() -
                                                               started_);
}

std::vector<VcpuStats> Guest::vcpu_stats() const {
  return machine_ ? machine_->vcpu_stats() : std::vector<VcpuStats>();
}

std::vector<DeviceStats> Guest::device_stats() const {
  return machine_ ? machine_->device_stats() : std::vector<DeviceStats>();
}

}  // namespace vmm
