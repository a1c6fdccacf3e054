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

Guest::Guest(boost::asio::io_context& loop, Console& console, Console* virtio_console,
             MachineFactory factory, EndHandler on_end)
    : loop_(loop),
      console_(console),
      virtio_console_(virtio_console),
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
  console_.connect_device(
      [this](std::span<const std::byte> bytes) { return machine_->serial_input(bytes); });
  if (virtio_console_ != nullptr) {
    virtio_console_->connect_device(
        [this](std::span<const std::byte> bytes) { return machine_->virtio_console_input(bytes); },
        [this](TerminalSize size) { machine_->set_console_size(size.cols, size.rows); });
  }
  if (virtio::Balloon* balloon = machine_->balloon()) {
    balloon->set_target(balloon_target_);
    balloon->set_statistics_period(balloon_period_);
  }
  return success();
}

void Guest::drop_machine() {
  console_.connect_device({});
  if (virtio_console_ != nullptr) virtio_console_->connect_device({});
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

Result<virtio::Balloon*> Guest::balloon() {
  if (state_ == GuestState::kEnded) return fail(ErrorKind::kFailed, "the guest has ended");
  virtio::Balloon* balloon = machine_->balloon();
  if (balloon == nullptr) return fail(ErrorKind::kFailed, "the guest has no balloon");
  return balloon;
}

Result<> Guest::set_balloon_target(std::uint64_t bytes) {
  TRY(auto* device, balloon());
  balloon_target_ = bytes;
  device->set_target(bytes);
  return success();
}

Result<> Guest::set_balloon_period(std::chrono::seconds period) {
  TRY(auto* device, balloon());
  balloon_period_ = period;
  device->set_statistics_period(period);
  return success();
}

Result<virtio::Balloon::Status> Guest::balloon_status() {
  TRY(auto* device, balloon());
  device->request_statistics();
  return device->status();
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
  if (virtio_console_ != nullptr) virtio_console_->flush();
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
